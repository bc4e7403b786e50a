import pytest

from onnx_ghn.errors import OptionError
from onnx_ghn.train.schedule import Schedule, Stage, parse_curriculum


def test_a_curriculum_is_parsed():
    assert parse_curriculum("full") == (Stage("full", 1.0),)
    assert parse_curriculum("narrow:0.2, full") == (Stage("narrow", 0.2), Stage("full", 1.0))


@pytest.mark.parametrize(
    "text", ["", "huge", "narrow:x,full", "narrow,full", "narrow:0.6,medium:0.3,full", "narrow:2"]
)
def test_a_bad_curriculum_is_refused(text):
    with pytest.raises(OptionError):
        parse_curriculum(text)


def test_space_and_side_follow_the_progress():
    schedule = Schedule(parse_curriculum("narrow:0.2,medium:0.5,full"), 16, 32, switch=0.7)
    assert [schedule.space(p) for p in (0, 0.19, 0.2, 0.49, 0.5, 1.0)] == [
        "narrow",
        "narrow",
        "medium",
        "medium",
        "full",
        "full",
    ]
    assert [schedule.image_side(p) for p in (0, 0.69, 0.7, 1.0)] == [16, 16, 32, 32]


def test_the_rate_warms_up_and_decays_to_one_percent():
    schedule = Schedule(parse_curriculum("full"), 16, 16, warmup=100)
    assert schedule.rate(0.0, 0) == pytest.approx(0.01)
    assert schedule.rate(0.0, 99) == pytest.approx(1.0)
    assert schedule.rate(0.5, 1000) == pytest.approx(0.505)
    assert schedule.rate(1.0, 1000) == pytest.approx(0.01)
    assert schedule.rate(0.5, 0) == pytest.approx(0.00505)  # an optimiser that starts empty
