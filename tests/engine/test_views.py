"""The augmented views of condensed images, epoch after epoch, and the chunks in which they are labelled."""

from dataclasses import replace

import pytest
import torch
from small_runs import flat_settings
from torchvision.transforms.v2 import functional as vision

from engine.data import augment, rand_augment
from engine.data import views as views_module
from engine.data.views import ViewSettings, batch_spans, chunk_limit, chunks, draw_epoch, join, render

SETTINGS = ViewSettings(seed=5, batch_size=4, crop_scale=(0.5, 1.0), flip=True, mix="cutmix", randaugment=True, shuffle_patches=2)
PLAIN = ViewSettings(seed=5, batch_size=4, crop_scale=(1.0, 1.0), flip=False, mix="none", randaugment=False, shuffle_patches=0)
SIDE = 16
MEAN, STD = torch.full((1, 3, 1, 1), 0.4), torch.full((1, 3, 1, 1), 0.25)


def pictures(count):
    return torch.randint(256, (count, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def same(first, second):
    return all(torch.equal(value, getattr(second, name)) for name, value in vars(first).items())


class TestDrawing:
    def test_seed_and_epoch_alone_decide(self):
        views = draw_epoch(10, SIDE, 3, SETTINGS)
        torch.rand(5)
        assert same(views, draw_epoch(10, SIDE, 3, SETTINGS))
        assert not torch.equal(views.crops, draw_epoch(10, SIDE, 4, SETTINGS).crops)
        assert not torch.equal(views.crops, draw_epoch(10, SIDE, 3, replace(SETTINGS, seed=6)).crops)

    @pytest.mark.parametrize("mix", ["none", "cutmix", "mixup"])
    def test_each_image_comes_once_an_epoch(self, mix):
        for epoch in range(5):
            index = draw_epoch(11, SIDE, epoch, replace(SETTINGS, mix=mix)).index
            assert sorted(index.tolist()) == list(range(11))

    @pytest.mark.parametrize("mix", ["cutmix", "mixup"])
    def test_partners_are_a_permutation_of_their_batch(self, mix):
        moved = 0
        for epoch in range(20):
            partner = draw_epoch(10, SIDE, epoch, replace(SETTINGS, mix=mix)).partner
            for first, last in ((0, 4), (4, 8), (8, 10)):
                assert sorted(partner[first:last].tolist()) == list(range(first, last))
            moved += sum(view != other for view, other in enumerate(partner.tolist()))
        assert moved > 50

    def test_without_mixing_every_view_is_its_own_partner_and_all_its_own(self):
        views = draw_epoch(10, SIDE, 0, replace(SETTINGS, mix="none"))
        assert views.partner.tolist() == list(range(10)) and views.share.tolist() == [1.0] * 10

    def test_a_batch_of_mixup_shares_one_weight(self):
        share = draw_epoch(10, SIDE, 0, replace(SETTINGS, mix="mixup")).share
        assert [len(set(share[first:last].tolist())) for first, last in ((0, 4), (4, 8), (8, 10))] == [1, 1, 1]
        assert share.min() >= 0 and share.max() <= 1 and len(set(share.tolist())) == 3

    def test_the_share_is_the_area_that_is_not_pasted_over(self):
        settings = replace(PLAIN, mix="cutmix")
        own, other = torch.zeros(4, 3, SIDE, SIDE, dtype=torch.uint8), torch.full((4, 3, SIDE, SIDE), 255, dtype=torch.uint8)
        seen = set()
        for epoch in range(20):
            views = draw_epoch(8, SIDE, epoch, settings)
            # Views whose partner is of the other colour show the box; the others stay of one colour.
            rendered = render(torch.cat([own, other]), views, settings, torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1))
            colour = (views.index >= 4).float()
            mixed = colour != colour[views.partner]
            pasted = (rendered - colour[:, None, None, None]).abs().mean((1, 2, 3))
            torch.testing.assert_close(pasted[mixed], 1 - views.share[mixed])
            assert (pasted[~mixed] == 0).all()
            seen |= set(views.share.tolist())
        assert len(seen) > 20

    def test_settings_are_taken_from_a_steps_own_and_no_mirror_without_leave_of_the_dataset(self):
        flat = flat_settings(labels__crop_scale=[0.3, 0.9], evaluate__batch_size=7, evaluate__shuffle_patches=3, labels__mix="mixup")
        assert ViewSettings.of(flat, 9) == ViewSettings(9, 7, (0.3, 0.9), True, "mixup", True, 3)
        assert not ViewSettings.of(flat | {"mirror": False}, 9).flip
        padded = flat | {"labels.crop_mode": "padded", "labels.crop_scale": None, "labels.padding": 6}
        assert ViewSettings.of(padded, 9) == ViewSettings(9, 7, (1.0, 1.0), True, "mixup", True, 3, padding=6)
        assert not ViewSettings.of(flat | {"labels.flip": False}, 9).flip


class TestBatches:
    @pytest.mark.parametrize(
        ("count", "size", "lengths"),
        [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (9, 4, [4, 5]), (3, 10, [3]), (1, 4, [1]), (3, 1, [1, 1, 1]), (5, 2, [2, 3])],
    )
    def test_a_last_view_alone_joins_the_batch_before_it(self, count, size, lengths):
        spans = batch_spans(count, size)
        assert [last - first for first, last in spans] == lengths
        assert spans[0][0] == 0 and spans[-1][1] == count
        assert all(before[1] == after[0] for before, after in zip(spans, spans[1:], strict=False))

    def test_the_joined_view_is_mixed_within_its_batch(self):
        for epoch in range(10):
            partner = draw_epoch(9, SIDE, epoch, SETTINGS).partner
            assert sorted(partner[4:].tolist()) == [4, 5, 6, 7, 8]
            assert len(set(draw_epoch(9, SIDE, epoch, SETTINGS).share[4:].tolist())) == 1


class TestRendering:
    def test_nothing_asked_for_leaves_the_normalised_images_in_the_order_of_the_epoch(self):
        views = draw_epoch(6, SIDE, 0, PLAIN)
        expected = (pictures(6)[views.index].float() / 255 - 0.4) / 0.25
        torch.testing.assert_close(render(pictures(6), views, PLAIN, MEAN, STD), expected)

    def test_the_order_is_randaugment_normalisation_patches_crop_mirror_mixing(self):
        views = draw_epoch(9, SIDE, 2, SETTINGS)
        seen = pictures(9)[views.index]
        seen = rand_augment.rand_augment(seen, views.operations, views.negative)
        seen = (seen.float() / 255 - MEAN) / STD
        seen = augment.shuffle_patches(seen, views.patch_orders)
        seen = augment.resized_crop(seen, views.crops)
        seen = torch.stack([image.flip(-1) if flipped else image for image, flipped in zip(seen, views.flips, strict=True)])
        mixed = seen.clone()
        for view, (top, left, height, width) in enumerate(views.boxes.tolist()):
            area = (slice(None), slice(top, top + height), slice(left, left + width))
            mixed[view][area] = seen[views.partner[view]][area]
        torch.testing.assert_close(render(pictures(9), views, SETTINGS, MEAN, STD), mixed, rtol=0, atol=1e-6)

    def test_a_padded_crop_is_torchvisions_of_the_image_before_normalisation(self):
        settings = replace(PLAIN, padding=3)
        views = draw_epoch(12, SIDE, 0, settings)
        assert views.crops.shape == (12, 2) and len({tuple(offset) for offset in views.crops.tolist()}) > 6
        expected = []
        for index, (top, left) in zip(views.index.tolist(), views.crops.tolist(), strict=True):
            expected.append(vision.crop(vision.pad(pictures(12)[index], [3]), top, left, SIDE, SIDE))
        found = render(pictures(12), views, settings, MEAN, STD)
        torch.testing.assert_close(found, (torch.stack(expected).float() / 255 - MEAN) / STD)

    def test_mixup_weighs_a_view_and_its_partner(self):
        settings = replace(PLAIN, mix="mixup")
        views = draw_epoch(6, SIDE, 0, settings)
        plain = render(pictures(6), views, PLAIN, MEAN, STD)
        share = views.share.view(-1, 1, 1, 1)
        torch.testing.assert_close(render(pictures(6), views, settings, MEAN, STD), share * plain + (1 - share) * plain[views.partner])

    def test_views_rendered_batch_by_batch_are_those_rendered_together(self):
        views = draw_epoch(10, SIDE, 1, SETTINGS)
        together = render(pictures(10), views, SETTINGS, MEAN, STD)
        alone = [render(pictures(10), views.part(first, last), SETTINGS, MEAN, STD) for first, last in batch_spans(10, 4)]
        torch.testing.assert_close(torch.cat(alone), together, rtol=0, atol=1e-6)

    def test_joined_epochs_render_as_each_alone(self):
        epochs = [draw_epoch(5, SIDE, epoch, SETTINGS) for epoch in (0, 1, 2)]
        alone = torch.cat([render(pictures(5), views, SETTINGS, MEAN, STD) for views in epochs])
        torch.testing.assert_close(render(pictures(5), join(epochs), SETTINGS, MEAN, STD), alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("count", "limit"), [(6, 20), (6, 6), (10, 8), (9, 8), (9, 4), (23, 9), (10, 1), (13, 12)])
class TestChunks:
    EPOCHS = 5

    def all(self, count, limit, first=0):
        return list(chunks(count, SIDE, self.EPOCHS, SETTINGS, limit=limit, first=first))

    def test_all_views_of_all_epochs_come_in_order(self, count, limit):
        views = [draw_epoch(count, SIDE, epoch, SETTINGS) for epoch in range(self.EPOCHS)]
        seen = [chunk.views for chunk in self.all(count, limit)]
        for name in ("index", "crops", "boxes", "share", "operations"):
            assert torch.equal(torch.cat([getattr(each, name) for each in seen]), torch.cat([getattr(each, name) for each in views]))

    def test_batches_cover_a_chunk_and_name_their_epoch(self, count, limit):
        expected = [(epoch, last - first) for epoch in range(self.EPOCHS) for first, last in batch_spans(count, SETTINGS.batch_size)]
        found = []
        for chunk in self.all(count, limit):
            assert chunk.batches[0][1] == 0 and chunk.batches[-1][2] == len(chunk.views)
            assert all(before[2] == after[1] for before, after in zip(chunk.batches, chunk.batches[1:], strict=False))
            found += [(epoch, last - first) for epoch, first, last in chunk.batches]
        assert found == expected

    def test_partners_stay_within_their_batch(self, count, limit):
        for chunk in self.all(count, limit):
            for _, first, last in chunk.batches:
                assert sorted(chunk.views.partner[first:last].tolist()) == list(range(first, last))

    def test_a_chunk_knows_the_row_of_its_first_view_in_the_stored_labels(self, count, limit):
        row = 0
        for number, chunk in enumerate(self.all(count, limit)):
            assert (chunk.number, chunk.first_view) == (number, row)
            row += len(chunk.views)
        assert row == count * self.EPOCHS

    def test_where_chunks_begin_does_not_depend_on_where_one_starts(self, count, limit):
        whole = self.all(count, limit)
        for first in range(len(whole) + 1):
            rest = self.all(count, limit, first)
            assert len(rest) == len(whole) - first
            for chunk, other in zip(whole[first:], rest, strict=True):
                assert (chunk.number, chunk.first_view, chunk.batches) == (other.number, other.first_view, other.batches)
                assert same(chunk.views, other.views)

    def test_a_chunk_is_about_as_large_as_asked_for(self, count, limit):
        assert max(len(chunk.views) for chunk in self.all(count, limit)) <= max(limit, SETTINGS.batch_size) + 1


def test_a_large_sets_epoch_is_drawn_once_for_all_of_its_chunks(monkeypatch):
    drawn = []
    monkeypatch.setattr(views_module, "draw_epoch", lambda *asked: drawn.append(asked[2]) or draw_epoch(*asked))
    assert len(list(chunks(23, SIDE, 3, SETTINGS, limit=9))) == 9
    assert drawn == [0, 1, 2]


def test_chunks_of_small_images_hold_more_of_them():
    assert chunk_limit(32) == 1024
    assert chunk_limit(224) == 20
    assert chunk_limit(1024) == 16


class TestPartsOfAChunk:
    def test_parts_are_the_chunk_cut_between_batches(self):
        (chunk,) = chunks(11, SIDE, 3, SETTINGS, limit=100)
        parts = list(chunk.parts(9))
        assert [number for number, _ in parts] == [0, 2, 4, 6, 8]
        epochs = [epoch for _, part in parts for epoch, *_ in part.batches]
        assert epochs == [epoch for epoch, *_ in chunk.batches]
        assert [part.first_view for _, part in parts] == [chunk.batches[number][1] for number, _ in parts]
        assert same(join([part.views for _, part in parts]), chunk.views)
        for _, part in parts:
            assert part.batches[0][1] == 0 and part.batches[-1][2] == len(part.views)

    def test_a_part_has_at_least_one_batch(self):
        (chunk,) = chunks(8, SIDE, 2, SETTINGS, limit=100)
        assert [len(part.batches) for _, part in chunk.parts(1)] == [1, 1, 1, 1]
