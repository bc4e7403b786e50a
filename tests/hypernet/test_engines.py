import numpy as np
import pytest
import torch

from onnx_ghn.hypernet.engines import TorchEngine


class Spy:
    def encode(self, features, distance):
        self.threads = torch.get_num_threads()
        self.inference = torch.is_inference_mode_enabled()
        return features.float()


def test_one_thread_while_it_computes_and_the_old_setting_after():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        spy = Spy()
        result = TorchEngine(spy).encode(np.ones((2, 3), np.int64), np.ones((2, 2), np.int64))
        assert spy.threads == 1
        assert spy.inference
        assert torch.get_num_threads() == 2
        np.testing.assert_array_equal(result, np.ones((2, 3), np.float32))
    finally:
        torch.set_num_threads(before)


def test_the_old_setting_comes_back_after_an_error():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(AttributeError):
            TorchEngine(Spy()).encode("no array", "no array")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
