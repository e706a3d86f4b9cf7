"""Stored soft labels: what each way of packing keeps, by hand, and what it takes."""

import numpy as np
import pytest
import torch
from small_runs import flat_settings

from engine.data.label_rows import packed, row_type, unpacked
from engine.project.label_storage import row_bytes
from engine.project.schema import Labels
from engine.stages.losses import student_loss

LOGITS = np.array([[1.0, 4.0, 2.0, -1.0, 0.5], [-3.0, 7.0, 6.5, 0.0, 0.25]], np.float32)


def stored(logits, storage, dtype="float32", top_k=2):
    kind = row_type(storage, dtype, logits.shape[1], top_k)
    return unpacked(packed(logits, kind), logits.shape[1])


def spread(rows, seed=0, classes=100, scale=4.0):
    return (scale * np.random.default_rng(seed).standard_normal((rows, classes))).astype(np.float32)


class TestFull:
    def test_all_logits_stay_as_they_are_or_are_rounded(self):
        assert (stored(LOGITS, "full") == LOGITS).all()
        assert (stored(LOGITS / 3, "full", "float16") == (LOGITS / 3).astype(np.float16)).all()


class TestTopK:
    def test_the_largest_are_kept_and_the_others_share_one_value(self):
        """By hand: of the first row 4 and 2 stay; the others get log((e^1 + e^-1 + e^0.5) / 3)."""
        found = stored(LOGITS, "top-k")
        shared = np.log((np.exp(1.0) + np.exp(-1.0) + np.exp(0.5)) / 3)
        assert found[0] == pytest.approx([shared, 4.0, 2.0, shared, shared], rel=1e-6)
        assert found[1, 1:3].tolist() == [7.0, 6.5] and len(set(found[1, [0, 3, 4]].tolist())) == 1

    def test_the_probabilities_of_the_largest_are_the_true_ones_and_the_others_are_even_in_the_rest(self):
        logits = spread(50)
        true, found = (torch.from_numpy(rows).double().softmax(1) for rows in (logits, stored(logits, "top-k", top_k=7)))
        top = true.topk(7).indices
        torch.testing.assert_close(found.gather(1, top), true.gather(1, top), rtol=1e-5, atol=1e-9)
        rest = (1 - true.gather(1, top).sum(1, keepdim=True)) / 93
        others = torch.ones_like(true, dtype=torch.bool).scatter(1, top, False)
        torch.testing.assert_close(found[others].view(50, 93), rest.expand(-1, 93), rtol=1e-4, atol=1e-9)
        torch.testing.assert_close(found.sum(1), torch.ones(50, dtype=torch.float64))

    def test_logits_too_large_for_an_exponential_are_packed_as_well(self):
        found = stored(LOGITS * 1000, "top-k")
        assert np.isfinite(found).all() and found[0, 0] == pytest.approx(1000 - np.log(3), rel=1e-6)

    def test_many_classes_have_indices_that_fit(self):
        logits = spread(3, classes=300)
        logits[:, 299] = 99
        assert (stored(logits, "top-k", "float16", 1)[:, 299] == 99).all()
        assert row_type("top-k", "float16", 256, 1)["classes"].base == np.uint8 != row_type("top-k", "float16", 257, 1)["classes"].base


class TestEightBit:
    def test_a_row_runs_from_its_smallest_to_its_largest_in_255_steps(self):
        """By hand: the second row spans 10 from -3, so a step is 10 / 255."""
        found = stored(LOGITS, "8-bit")
        steps = np.rint((LOGITS[1] + 3) * 255 / 10)
        assert found[1] == pytest.approx(-3 + steps * 10 / 255, rel=1e-5)

    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    def test_no_logit_is_off_by_much_more_than_half_a_step(self, dtype):
        """In float16 the offset is off by up to 2^-11 of itself and the largest codes by 2^-11 of the range, an eighth of a step."""
        logits = spread(200)
        step = np.ptp(logits, axis=1, keepdims=True) / 255
        slack = 0.0 if dtype == "float32" else np.abs(logits.min(1, keepdims=True)) / 2048 + step / 8
        assert (np.abs(stored(logits, "8-bit", dtype) - logits) <= 0.501 * step + slack).all()

    def test_equal_logits_stay_equal(self):
        assert (stored(np.full((2, 5), 1.5, np.float32), "8-bit", "float16") == 1.5).all()


@pytest.mark.parametrize("storage", ["full", "top-k", "8-bit"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("classes", [10, 256, 257, 70_000])
def test_a_row_takes_the_bytes_that_are_foretold(storage, dtype, classes):
    labels = Labels(mode="stored", storage=storage, dtype=dtype, top_k=5)
    assert np.empty(3, row_type(storage, dtype, classes, 5)).nbytes == 3 * row_bytes(labels, classes)


@pytest.mark.parametrize("loss", ["mse_ce", "kl", "dist"])
@pytest.mark.parametrize("storage", ["full", "top-k", "8-bit"])
def test_every_loss_of_unpacked_labels_is_near_that_of_the_logits(storage, loss):
    """Confident rows, as observers give: what top-k flattens has little probability; its squared error is another matter, by design."""
    logits = spread(20, classes=10)
    settings = flat_settings(evaluate__loss=loss, evaluate__temperature=1.0)
    student, labels = torch.randn(20, 10, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 10
    teachers = (torch.from_numpy(rows) for rows in (logits, stored(logits, storage, "float16", 6)))
    true, found = (student_loss(settings, student, teacher, labels, labels, torch.ones(20)).item() for teacher in teachers)
    assert found == pytest.approx(true, rel=0.02 if (storage, loss) != ("top-k", "mse_ce") else 0.5)
