"""Laws of classifier-free guidance, on a denoiser whose log-probabilities are known."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from trimask.core.canvas import Canvas, Composer, Row, Segment, queries
from trimask.core.errors import UsageError
from trimask.core.modality import Modality, Vocabulary
from trimask.data.tasks import Conditions, draw_row
from trimask.diffusion.guidance import against, guided, null_condition
from trimask.diffusion.samplers import RandomOrder
from trimask.diffusion.sampling import Engine, sample, to_fill
from trimask.diffusion.settings import Course, Settings

VOCABULARY = Vocabulary(
    modalities=(
        Modality(name="text", grid="line", codes=3, buckets=(6, 12)),
        Modality(name="image", grid="plane", codes=4),
        Modality(name="audio", grid="frames", codes=5, levels=2, stack=True, buckets=(6,)),
    )
)


class Known:
    """One table of log-probabilities for each first word that is given, and one for where it is withheld.

    Logits are shifted by a constant of the table, as those of a network may be. `seen` notes the rows of each call.
    """

    def __init__(self, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.mask, self.seen = VOCABULARY.mask, []
        widths = [a.codes + 2 for a in VOCABULARY.alphabets]
        self.tables = {
            (a, word): torch.from_numpy(np.log(rng.dirichlet(np.ones(n)))).float()
            for a, n in enumerate(widths)
            for word in (0, 1, 2, self.mask)
        }

    def __call__(self, canvas: Canvas, queries):
        self.seen.append(canvas.shape[0])
        word_B = canvas.ids_BL[:, 3].tolist()  # behind BOS, the task and the opening of the text
        length = canvas.shape[1]
        out = []
        for query in queries:
            words = [word_B[i // length] for i in query.index_N.tolist()]
            columns = VOCABULARY.alphabets[query.alphabet].codes + 2 * query.ends
            out.append(torch.stack([self.tables[query.alphabet, w][:columns] + w for w in words]))
        return out


def laid(first: int) -> Row:
    """Two given words, and a picture and a frame of speech that are hidden."""
    text = Segment("text", np.array([first, 2]))
    image = Segment("image", np.zeros((1, 2), np.int32), target=True, hidden=True)
    speech = Segment("speech", np.zeros((1, 2), np.int32), target=True, hidden=True)
    return Row((text, image, speech))


def captions(count: int = 3, firsts: int = 3) -> Canvas:
    """Rows whose first word goes round."""
    return Composer(VOCABULARY, 12, 16).compose([[laid(i % firsts)] for i in range(count)])


def expected(known: Known, query, length: int, w: float) -> torch.Tensor:
    """(1 + w) log p(x | c) - w log p(x) of each queried token, up to a constant of the token."""
    words = [int(i) // length % 3 for i in query.index_N]
    null = known.tables[query.alphabet, known.mask]
    return torch.stack([(1 + w) * known.tables[query.alphabet, c] - w * null for c in words])


@pytest.mark.parametrize("scale", [(0.5, 0.5, 0.5), (3.0, 1.0, 1.0), (0.0, 2.0, 2.0), (-0.5, 0.25, 0.0)])
def test_guidance_is_the_conditional_pushed_away_from_the_null(scale: tuple[float, ...]):
    known, canvas = Known(), captions()
    asked = queries(canvas, to_fill(canvas, VOCABULARY), VOCABULARY)
    assert [q.alphabet for q in asked] == [1, 2, 3]
    found = guided(known, canvas, asked, [np.full(3, w) for w in scale], VOCABULARY)
    assert known.seen == [6]
    for query, w, log_p in zip(asked, scale, found, strict=True):
        assert log_p.shape == (len(query.index_N), VOCABULARY.alphabets[query.alphabet].codes + 2)
        offset = log_p - expected(known, query, canvas.shape[1], w)
        assert (offset - offset[:, :1]).abs().max() < 4 * torch.finfo().eps * log_p.abs().max()


@pytest.mark.parametrize("w", [-2.0, -1.0, -0.5, 0.5, 3.0])
def test_at_any_scale_what_the_conditional_excludes_stays_excluded(w: float):
    """And nothing else is, also where the null excludes it."""

    def law(canvas: Canvas, asked):
        """The last id is impossible in rows with their text, the first in those without."""
        out = []
        for query in asked:
            logits = torch.zeros(len(query.index_N), VOCABULARY.alphabets[query.alphabet].codes + 2)
            given = canvas.ids_BL[query.index_N // canvas.shape[1], canvas.spans[0].start] != VOCABULARY.mask
            logits[given, -1], logits[~given, 0] = -torch.inf, -torch.inf
            out.append(logits)
        return out

    canvas = captions(1)
    asked = queries(canvas, to_fill(canvas, VOCABULARY), VOCABULARY)
    for logits in guided(law, canvas, asked, [np.full(1, w)] * 3, VOCABULARY):
        assert (logits[:, -1] == -torch.inf).all() and torch.isfinite(logits[:, :-1]).all()


def test_without_guidance_only_the_conditional_is_asked_for():
    known, canvas = Known(), captions()
    asked = queries(canvas, to_fill(canvas, VOCABULARY), VOCABULARY)
    for query, logits in zip(asked, guided(known, canvas, asked, [np.zeros(3)] * 3, VOCABULARY), strict=True):
        law = logits.log_softmax(-1)
        assert torch.allclose(law, expected(known, query, canvas.shape[1], 0.0), atol=1e-6)
    assert known.seen == [3]


def test_only_rows_that_are_guided_have_a_null_row():
    """As in an interval of guidance, or where a server mixes requests."""
    known, canvas = Known(), captions(4)
    asked = queries(canvas, to_fill(canvas, VOCABULARY), VOCABULARY)
    scale = [np.array([0.0, 2.0, 0.0, 0.5]), np.array([0.0, 2.0, 0.0, 0.0]), np.zeros(4)]
    found = guided(known, canvas, asked, scale, VOCABULARY)
    assert known.seen == [6]
    for query, w_B, logits in zip(asked, scale, found, strict=True):
        for row in range(4):
            mine = query.index_N // canvas.shape[1] == row
            own = replace(query, index_N=query.index_N[mine], count=int(mine.sum()))
            offset = logits[mine] - expected(known, own, canvas.shape[1], w_B[row])
            assert (offset - offset[:, :1]).abs().max() < 4 * torch.finfo().eps * logits.abs().max()


def test_through_the_engine_only_rows_that_are_asked_for_and_guided_have_a_null_row():
    known, canvas = Known(), captions(4)
    plain, pushed = (
        {"image": Settings(RandomOrder(steps=1), guidance=w), "audio": Settings(RandomOrder(1))} for w in (0, 2)
    )
    sample(Engine(known, VOCABULARY), canvas, [plain, plain, plain, pushed])
    assert known.seen == [5]


def test_a_row_without_a_condition_has_no_null_row():
    known, given, filled = Known(), laid(1), []
    bare = Row((Segment("text", np.array([0, 0]), target=True, hidden=True), *given.segments[1:]))
    canvas = Composer(VOCABULARY, 12, 16).compose([[given], [bare], [given]])
    for w in (0.0, 1.5):
        every = {name: Settings(RandomOrder(steps=1), guidance=w) for name in ("text", "image", "audio")}
        filled.append(sample(Engine(known, VOCABULARY), canvas, every, seed=3).ids_BL)
    assert known.seen == [3, 5]
    plain, pushed = filled
    assert torch.equal(plain[1], pushed[1]) and not torch.equal(plain, pushed)


def test_guidance_follows_its_course():
    known, canvas = Known(), captions(2)
    image = Settings(RandomOrder(steps=2), guidance=Course(2.0, 2.0, 0.0, 0.5, outside=0.0))
    sample(Engine(known, VOCABULARY), canvas, {"image": image, "audio": Settings(RandomOrder(steps=2))})
    assert known.seen == [4, 2]


def test_a_negative_condition_stands_where_the_null_one_did():
    """It may be longer than the condition: its targets then lie elsewhere in the row."""
    known, canvas = Known(), captions()
    other = Composer(VOCABULARY, 12, 16).compose(
        [
            [Row((Segment("text", np.array([1, 0, 2])), *(s for s in row.segments if s.target)))]
            for row in [laid(0), laid(1), laid(2)]
        ]
    )
    asked = queries(canvas, to_fill(canvas, VOCABULARY), VOCABULARY)
    negative = against(canvas, other)
    # What is filled in the one is filled in the other.
    ids_BL = canvas.ids_BL.clone()
    image = canvas.spans[1]
    ids_BL[:, image.start] = VOCABULARY.alphabets[1].start + 3
    filled = negative.filled(canvas.with_ids(ids_BL))
    assert torch.equal(filled.ids_BL != other.ids_BL, (negative.canvas.slot_BL == image.start + 1) & other.maskable_BL)
    found = guided(known, canvas, asked, [np.full(3, 2.0)] * 3, VOCABULARY, negative)
    for query, logits in zip(asked, found, strict=True):
        words = [int(i) // canvas.shape[1] % 3 for i in query.index_N]
        law = torch.stack([3 * known.tables[query.alphabet, c] - 2 * known.tables[query.alphabet, 1] for c in words])
        offset = logits - law
        assert (offset - offset[:, :1]).abs().max() < 4 * torch.finfo().eps * logits.abs().max()
    with pytest.raises(UsageError, match="same kinds, sizes and lengths"):
        against(canvas, other.rows([0, 1]))


def test_a_weaker_model_stands_where_the_null_condition_did():
    known, weaker, canvas = Known(), Known(seed=9), captions(4)
    asked = queries(canvas, to_fill(canvas, VOCABULARY), VOCABULARY)
    scale = [np.array([0.0, 1.5, 1.5, 1.5])] * 3
    found = guided(known, canvas, asked, scale, VOCABULARY, weaker=weaker)
    assert known.seen == [4] and weaker.seen == [3]
    for query, logits in zip(asked, found, strict=True):
        words = [(int(i) // canvas.shape[1]) for i in query.index_N]
        law = torch.stack(
            [
                (1 + scale[0][row]) * known.tables[query.alphabet, row % 3]
                - scale[0][row] * weaker.tables[query.alphabet, row % 3]
                for row in words
            ]
        )
        offset = logits - law
        assert (offset - offset[:, :1]).abs().max() < 4 * torch.finfo().eps * logits.abs().max()
    engine = Engine(known, VOCABULARY, weaker)
    settings = {"image": Settings(RandomOrder()), "audio": Settings(RandomOrder())}
    with pytest.raises(UsageError, match="not from both"):
        engine.start(canvas, settings, negative=canvas)


def test_what_the_conditional_excludes_stays_excluded():
    known, canvas = Known(), captions(1)
    asked = queries(canvas, to_fill(canvas, VOCABULARY), VOCABULARY)[:1]
    for impossible, of in ((0, [0]), (1, [known.mask]), (2, [0, known.mask])):
        for word in of:
            known.tables[1, word] = known.tables[1, word].clone()
            known.tables[1, word][impossible] = -torch.inf
    log_p = guided(known, canvas, asked, [np.full(1, 2.0)], VOCABULARY)[0].log_softmax(-1)
    assert torch.isneginf(log_p[:, [0, 2]]).all()
    # Only the conditional allows 1: the ratio is without limit, and the result is a law all the same.
    assert log_p[:, 1].exp() == pytest.approx(np.ones(len(log_p))) and not log_p.isnan().any()


def test_samples_follow_the_guided_law():
    known = Known(seed=5)
    settings = {"image": Settings(RandomOrder(steps=2), guidance=1.5), "audio": Settings(RandomOrder(steps=1))}
    filled = sample(Engine(known, VOCABULARY), captions(800, firsts=1), settings)
    for w, alphabet in ((1.5, 1), (0.0, 2)):
        a = VOCABULARY.alphabets[alphabet]
        ids = filled.ids_BL[filled.alphabet_BL == alphabet].numpy()
        column = np.where(ids >= a.end, a.codes + ids - a.end, ids - a.start)
        law = ((1 + w) * known.tables[alphabet, 0] - w * known.tables[alphabet, known.mask]).softmax(0).double()
        counts = np.bincount(column, minlength=len(law))
        assert chisquare(counts, (law / law.sum()).numpy() * len(ids)).pvalue > 1e-3


@pytest.mark.parametrize("task", ["text>image", "image>text", "text>speech", "image+text>speech", "speech>text"])
def test_the_null_canvas_is_that_of_training(task: str):
    """The condition that guidance hides looks as one that training withheld, spans of targets and all."""
    rng = np.random.default_rng(0)
    shapes = {"text": (3, (4,)), "voice": (3, (2,)), "image": (4, (2, 3)), "speech": (5, (4, 2))}
    parts = {kind: rng.integers(0, top, shape) for kind, (top, shape) in shapes.items()}
    composer = Composer(VOCABULARY, 40, 48)
    compared = set()
    for seed in range(12):
        clean, withheld = (
            composer.compose([[Row(draw_row(task, parts, VOCABULARY, c, np.random.default_rng(seed)))]])
            for c in (Conditions(clean=1.0, joint=0.0, null=0.0), Conditions(clean=0.0, joint=0.0, null=1.0))
        )
        null = null_condition(clean, VOCABULARY)
        assert not torch.equal(null.ids_BL, clean.ids_BL)
        assert null.spans == withheld.spans
        for field in fields(Canvas):
            if field.name != "spans":
                assert torch.equal(getattr(null, field.name), getattr(withheld, field.name)), field.name
        compared.add(tuple(s.free for s in null.spans))
    assert len(compared) == 1 if task.endswith("image") else len(compared) > 1


def test_the_null_canvas_keeps_what_is_to_be_filled_and_what_is_known_of_it():
    hidden = np.array([[True, False, True]])
    picture = Segment("image", np.array([[1, 2, 3]]), target=True, hidden=hidden)
    canvas = Composer(VOCABULARY, 12, 12).compose([[Row((Segment("text", np.array([2, 1])), picture))]])
    null = null_condition(canvas, VOCABULARY)
    text = canvas.spans[0]
    words = range(text.start, text.start + text.length)
    assert (null.ids_BL[0, list(words)] == VOCABULARY.mask).all()
    assert (null.ids_BL != canvas.ids_BL)[0].nonzero().flatten().tolist() == list(words)
    assert torch.equal(to_fill(null, VOCABULARY), to_fill(canvas, VOCABULARY))
