"""What the `Engine` protocol says of streams, held by the engines that draw everything at once."""

from __future__ import annotations

import contextlib

import pytest

from sectow_fast.engine.ranked_engine import RankedEngine
from sectow_fast.engine.streams import AtOnce, whole
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.learn.ranks import ALONE
from sectow_fast.types import Completion, Sampling

SAMPLING = Sampling(max_new_tokens=5)


@pytest.fixture
def prompts(stage):
    return stage.codec.encode(stage.world.train_cases("harmless")[:5])


@pytest.fixture(params=["torch", "ranked"])
def engine(request, stage, model):
    plain = TorchEngine(model, stage.codec)
    if request.param == "torch":
        return plain
    return RankedEngine(plain, ALONE, whole=lambda model: model.state_dict())


def ids(groups):
    return [[one.ids for one in group] for group in groups]


def test_a_stream_gives_what_generate_gives(engine, prompts):
    groups = engine.generate(prompts, n=3, sampling=SAMPLING, seed="a")
    stream = engine.submit(prompts, n=3, sampling=SAMPLING, seed="a")
    rows = list(stream.each())
    assert [(i, j) for i, j, _ in rows] == [(i, j) for i in range(5) for j in range(3)]
    assert [one for _, _, one in rows] == [one for group in groups for one in group]
    assert list(stream.each()) == []


def test_prompts_one_by_one_give_the_tokens_of_all_together(engine, prompts):
    together = engine.generate(prompts, n=3, sampling=SAMPLING, seed="b")
    for number in reversed(range(len(prompts))):
        stream = engine.submit(
            prompts[number : number + 1], n=3, sampling=SAMPLING, seed="b", numbers=[number]
        )
        assert ids(whole(stream, prompts=1, n=3)) == ids([together[number]])
    other = engine.generate(prompts[:1], n=3, sampling=SAMPLING, seed="b", numbers=[7])
    assert ids(other) != ids(together[:1])


def test_a_look_without_waiting_draws_nothing(engine, prompts):
    stream = engine.submit(prompts, n=2, sampling=SAMPLING, seed="c")
    assert list(stream.each(wait=False)) == []
    first = next(stream.each())
    rest = list(stream.each(wait=False))
    assert len({(i, j) for i, j, _ in [first, *rest]}) == 10


def test_what_a_consumer_raises_stops_the_rest(engine, prompts):
    with (
        pytest.raises(ValueError, match="a judge that fails"),
        contextlib.closing(engine.submit(prompts, n=2, sampling=SAMPLING, seed="d")) as stream,
    ):
        for _ in stream.each():
            raise ValueError("a judge that fails")
    assert list(stream.each()) == []


def test_a_stream_that_is_closed_first_never_draws():
    def draw() -> list[list[Completion]]:
        raise AssertionError("it was drawn")

    stream = AtOnce(draw)
    stream.close()
    stream.close()
    assert list(stream.each()) == []


def test_whole_closes_what_goes_wrong(engine, prompts):
    stream = engine.submit(prompts, n=2, sampling=SAMPLING, seed="e")
    with pytest.raises(IndexError):
        whole(stream, prompts=2, n=2)  # fewer than were submitted
    assert list(stream.each()) == []


def test_engines_of_one_process_do_not_run_beside_each_other(stage, engine, model):
    assert not engine.runs_beside(TorchEngine(model, stage.codec))
    assert not engine.runs_beside(engine)


def test_a_ranked_engine_copies_the_trained_weights_into_its_own_model(stage, model, prompts):
    copy = stage.defender()
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    ranked = RankedEngine(
        TorchEngine(copy, stage.codec), ALONE, whole=lambda trained: trained.state_dict().items()
    )
    assert ranked.model is copy
    ranked.sync(model)
    drawn = ranked.generate(prompts, n=2, sampling=SAMPLING, seed="f")
    wanted = TorchEngine(model, stage.codec).generate(prompts, n=2, sampling=SAMPLING, seed="f")
    assert ids(drawn) == ids(wanted)
    assert {one.weight_version for group in drawn for one in group} == {1}
