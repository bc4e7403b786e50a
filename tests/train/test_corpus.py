import onnx_ir as ir
import pytest

from onnx_ghn.architectures.key import graph_key
from onnx_ghn.architectures.sample import sample
from onnx_ghn.errors import OptionError
from onnx_ghn.train.corpus import FIRST_SEED, POOL, Corpus
from onnx_ghn.train.export import network_config

NETWORK = network_config(10)


def names(corpus, steps):
    return [corpus.task("narrow", step, 16).name for step in steps]


def test_the_step_alone_decides():
    steps = list(range(12))
    forward = names(Corpus(NETWORK, seed=1), steps)
    backward = names(Corpus(NETWORK, seed=1), steps[::-1])
    assert forward == backward[::-1]
    assert forward != names(Corpus(NETWORK, seed=2), steps)


def test_an_architecture_is_prepared_once():
    corpus = Corpus(NETWORK)
    assert corpus.task("narrow", 5, 16) is corpus.task("narrow", 5, 16)
    assert corpus.task("narrow", 5, 16) is not corpus.task("narrow", 5, 32)


def test_new_architectures_come_in_and_old_ones_leave():
    corpus = Corpus(NETWORK, reuse=2, window=8)
    for step in (0, 100, 1000):
        number = int(corpus.task("narrow", step, 16).name.split("-")[1]) - FIRST_SEED
        newest = POOL + step // 2
        assert newest - 8 <= number < newest


def test_processes_take_disjoint_shares():
    first, second = (set(names(Corpus(NETWORK, share=(k, 2)), range(10))) for k in range(2))
    assert not first & second


def test_a_held_out_graph_is_replaced():
    name = Corpus(NETWORK).task("narrow", 3, 16).name
    key = graph_key(sample("narrow", int(name.split("-")[1])))
    other = Corpus(NETWORK, held_out=[key]).task("narrow", 3, 16).name
    assert other != name
    assert graph_key(sample("narrow", int(other.split("-")[1]))) != key


def test_a_folder_of_onnx_files_is_a_corpus(tmp_path):
    import numpy as np

    for seed in range(2):
        model = sample("narrow", seed, image_side=16)
        for value in model.graph.initializers.values():
            if value.const_value is None:
                value.const_value = ir.Tensor(np.zeros(tuple(value.shape), np.float32))
        ir.save(model, tmp_path / f"{seed}.onnx")
    corpus = Corpus(NETWORK, folder=tmp_path)
    found = {corpus.task("narrow", step, 16).name for step in range(12)}
    assert found == {str(tmp_path / "0.onnx"), str(tmp_path / "1.onnx")}


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(OptionError, match=r"no \.onnx files"):
        Corpus(NETWORK, folder=tmp_path)
