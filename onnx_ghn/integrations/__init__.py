"""The pass in other people's toolchains: one file each, imported only by that toolchain."""
