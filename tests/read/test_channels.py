import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_ghn.architectures.sample import sample
from onnx_ghn.read.channels import MAX_ELEMENTS, Channels
from onnx_ghn.read.dataflow import trace
from onnx_ghn.read.reading import read_model
from tests.read.conftest import parse_model


def places(text):
    """Rows and columns of each parameter that has places, as (first, count) where they run on."""
    reading = read_model(parse_model(text))
    found = {}
    for slots in reading.graph.slots:
        for slot in slots:
            parameter = reading.parameters[slot.parameter]
            rows, columns = reading.channels.of(parameter)
            if rows is not None or columns is not None:
                found[parameter.name] = (run(rows), run(columns))
    return found


def run(line):
    if line is None or line != tuple(range(line[0], line[0] + len(line))):
        return line
    return line[0], len(line)


def test_without_a_concat_channels_count_from_zero():
    assert not places(
        """g (float[n,3,8,8] x) => (float[n,5] y)
        <float[8,3,3,3] a, float[8] s, float[8] b, float[8] m, float[8] v, float[8,8,3,3] c,
         float[5,8] w, float[5] z> {
            p = Conv(x, a)
            q = BatchNormalization(p, s, b, m, v)
            r = Relu(q)
            t = Conv(r, c)
            u = GlobalAveragePool(t)
            f = Flatten(u)
            y = Gemm<transB=1>(f, w, z)
        }"""
    )


def test_what_is_put_behind_another_is_written_behind_it():
    assert places(
        """g (float[n,3,8,8] x) => (float[n,6,h,w] y)
        <float[4,3,1,1] a, float[8,3,1,1] b, float[8] s, float[8] t, float[8] m, float[8] v,
         float[8] bias, float[8,1,3,3] d, float[6,12,1,1] c> {
            p = Conv(x, a)
            q = Conv(x, b, bias)
            r = BatchNormalization(q, s, t, m, v)
            u = Relu(r)
            w = Conv<group=8, pads=[1,1,1,1]>(u, d)
            z = Concat<axis=1>(p, w)
            y = Conv(z, c)
        }"""
    ) == dict.fromkeys(("b", "bias", "s", "t", "d"), ((4, 8), None))


def test_where_one_concat_goes_into_the_next_the_last_one_counts():
    found = places(
        """g (float[n,3,8,8] x) => (float[n,6,h,w] y)
        <float[4,3,1,1] a, float[8,4,1,1] b, float[8,12,1,1] c, float[8,3,1,1] e,
         float[6,28,1,1] d> {
            p = Conv(x, a)
            q = Conv(p, b)
            r = Concat<axis=1>(p, q)
            s = Conv(r, c)
            first = Conv(x, e)
            t = Concat<axis=1>(first, r, s)
            y = Conv(t, d)
        }"""
    )
    assert found == {
        "a": ((8, 4), None),
        "b": ((12, 8), (8, 4)),
        "c": ((20, 8), (8, 12)),
    }


def test_a_part_of_a_stream_is_read_at_its_places():
    for cut in (
        "l, r = Split<axis=1>(p, sizes)",
        "l = Slice(p, zero, three, one)\nr = Slice(p, three, end, one)",
    ):
        assert places(
            f"""g (float[n,3,8,8] x) => (float[n,4,h,w] y)
            <float[8,3,1,1] a, float[5,5,1,1] b, float[4,8,1,1] c,
             int64[2] sizes = {{3, 5}}, int64[1] zero = {{0}}, int64[1] three = {{3}},
             int64[1] end = {{9223372036854775807}}, int64[1] one = {{1}}> {{
                p = Conv(x, a)
                {cut}
                s = Conv(r, b)
                t = Concat<axis=1>(s, l)
                y = Conv(t, c)
            }}"""
        ) == {"b": (None, (3, 5)), "c": (None, (0, 1, 2, 3, 4, 0, 1, 2))}


@pytest.mark.parametrize("form", ["declared", "numbers", "computed"])
def test_a_shuffle_takes_places_along(form):
    declared = "float[n,2,3,8,8] t, float[n,3,2,8,8] u, float[n,6,8,8] v," * (form == "declared")
    batch = -1 if form == "declared" else 1
    sizes = f"""first = Constant<value_ints=[{batch}, 2, 3, 8, 8]>()
            last = Constant<value_ints=[{batch}, 6, 8, 8]>()"""
    if form == "computed":
        sizes = """size = Shape(s)
            batch = Slice(size, zero, one)
            rest = Slice(size, two, four)
            count = Slice(size, one, two)
            each = Div(count, two)
            first = Concat<axis=0>(batch, two, each, rest)
            last = Concat<axis=0>(batch, count, rest)"""
    assert places(
        f"""g (float[n,3,8,8] x) => (float[n,6,h,w] y)
        <{declared} float[3,3,1,1] a, float[3,3,1,1] b, float[3,3,1,1] c, float[6,6,1,1] d,
         int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] four = {{4}},
         int64[1] three = {{3}}, int64[1] six = {{6}}> {{
            p = Conv(x, a)
            q = Conv(x, b)
            s = Concat<axis=1>(p, q)
            {sizes}
            t = Reshape(s, first)
            u = Transpose<perm=[0,2,1,3,4]>(t)
            v = Reshape(u, last)
            w = Slice(v, three, six, one)
            z = Conv(w, c)
            y = Conv(v, d)
        }}"""
    ) == {"b": ((3, 3), None), "c": (None, (4, 2, 5)), "d": (None, (0, 3, 1, 4, 2, 5))}


@pytest.mark.parametrize(
    ("shape", "declared"),
    [("n,3,2,2", "float[n,3,2,2] p, float[n,12] q,"), ("n,3,h,w", "")],
    ids=["declared", "counted by the weight"],
)
def test_a_flattened_image_has_the_place_of_its_channel_at_each_pixel(shape, declared):
    assert places(
        f"""g (float[{shape}] x) => (float[n,7] y)
        <{declared} float[3,3,1,1] a, float[7,12] w> {{
            p = Conv(x, a)
            q = Flatten(p)
            r = Dropout(q)
            y = Gemm<transB=1>(r, w)
        }}"""
    ) == {"w": (None, (0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2))}


def test_images_with_their_channels_last():
    assert places(
        """g (float[n,8,8,3] x) => (float[n,h,w,6] y)
        <float[3,4] a, float[3,8] b, float[8] c, float[12,6] d> {
            p = MatMul(x, a)
            q = MatMul(x, b)
            r = Add(q, c)
            s = Concat<axis=-1>(p, r)
            y = MatMul(s, d)
        }"""
    ) == {"b": ((4, 8), None), "c": ((4, 8), None)}


def test_a_concat_of_tokens_moves_no_channels():
    assert not places(
        """g (float[1,4,6] x) => (float[1,8,6] y)
        <float[6,6] a, float[6,6] b, float[6,6] c> {
            p = MatMul(x, a)
            q = MatMul(x, b)
            r = Concat<axis=1>(p, q)
            y = MatMul(r, c)
        }"""
    )


def test_who_gates_channels_writes_at_their_places():
    found = places(
        """g (float[n,3,8,8] x) => (float[n,6,h,w] y)
        <float[4,3,1,1] a, float[8,3,1,1] b, float[2,8,1,1] c, float[8,2,1,1] d,
         float[6,12,1,1] e> {
            p = Conv(x, a)
            q = Conv(x, b)
            r = GlobalAveragePool(q)
            s = Conv(r, c)
            t = Conv(s, d)
            u = Sigmoid(t)
            v = Mul(q, u)
            w = Concat<axis=1>(p, v)
            y = Conv(w, e)
        }"""
    )
    assert found == {"b": ((4, 8), None), "c": (None, (4, 8)), "d": ((4, 8), None)}


def test_a_concatenation_that_doubles_again_and_again_is_given_up():
    lines = "\n".join(f"c{k + 1} = Concat<axis=1>(c{k}, c{k})" for k in range(40))
    text = f"""g (float[n,3,8,8] x) => (c40) <float[8,3,1,1] a> {{
        c0 = Conv(x, a)
        {lines}
    }}"""
    flow = trace(parse_model(text))
    channels = Channels(flow)
    assert max(found.size for found in channels._maps.values()) <= MAX_ELEMENTS


@pytest.mark.parametrize(
    "line",
    [
        "z = Concat<axis=7>(p, q)",
        "z = Transpose<perm=[0,0,1,9]>(p)",
        "z = Gather<axis=1>(p, far)",
        "z, z2 = Split<axis=9>(p)",
        "z = Slice(p, far, far, far)",
        "z = ReduceMean<axes=[5], keepdims=0>(p)",
        "z = Reshape(p, far)",
        "s = Shape(x)\nz = Slice(p, far, far, s)",
        "s = Shape(x)\nz, z2 = Split<axis=1>(p, s)",
    ],
)
def test_what_is_not_known_or_only_in_damaged_files_gives_no_places(line):
    assert not places(
        f"""g (float[n,3,8,8] x) => (y)
        <float[4,3,1,1] a, float[4,3,1,1] b, float[6,4,1,1] c, int64[1] far = {{99}}> {{
            p = Conv(x, a)
            q = Conv(x, b)
            {line}
            y = Conv(z, c)
        }}"""
    )


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(["full", "broad", "dense"]), st.integers(0, 10_000))
def test_what_is_put_together_has_each_place_once(space, seed):
    """Whoever reads a Concat of new channels reads them in order: no columns of its own."""
    model = sample(space, seed, image_side=16)
    flow = trace(model)
    channels = Channels(flow)
    joined = [node for node in flow.nodes if node.op_type == "Concat" and len(node.outputs) == 1]
    fresh = [
        node
        for node in joined
        if all(map(flow.is_signal, node.inputs))
        and all(value.producer().op_type not in ("Slice", "Split") for value in node.inputs)
    ]
    for node in fresh:
        size = node.outputs[0].shape[1]
        assert channels._line(node.outputs[0], size) is None
