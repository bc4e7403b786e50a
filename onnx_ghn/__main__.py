"""`python -m onnx_ghn` is the command line."""

from onnx_ghn.cli import main

if __name__ == "__main__":
    main()
