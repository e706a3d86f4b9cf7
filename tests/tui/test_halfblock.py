"""Images as half-blocks: which pixel goes where, and how images shrink and grow."""

import numpy as np
import pytest

from edc_tui.widgets.halfblock import Scale, half_blocks, scaled, scales
from edc_tui.widgets.picture_grid import FRAME_ROWS, lay_out


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class TestHalfBlocks:
    def test_a_cell_is_the_upper_pixel_on_the_lower_one(self):
        pixels = np.array([[[255, 0, 0], [1, 2, 3]], [[0, 255, 0], [16, 32, 48]]], np.uint8)
        assert half_blocks(pixels) == [[("▀", "#ff0000/#00ff00"), ("▀", "#010203/#102030")]]

    def test_below_an_odd_last_row_is_nothing(self):
        rows = half_blocks(np.zeros((3, 1, 3), np.uint8))
        assert [row[0][1] for row in rows] == ["#000000/#000000", "#000000/"]


class TestScaling:
    def test_enlarging_repeats_pixels(self):
        image = picture(2, 3)
        large = scaled(image, Scale(3))
        assert large.shape == (6, 9, 3)
        assert all((large[y, x] == image[y // 3, x // 3]).all() for y in range(6) for x in range(9))

    @pytest.mark.parametrize(("height", "width", "down"), [(8, 8, 2), (7, 10, 3), (5, 5, 4), (9, 4, 2)])
    def test_shrinking_takes_the_mean_of_each_block_also_of_those_cut_off_by_the_edge(self, height, width, down):
        image = picture(height, width)
        small = scaled(image, Scale(1, down))
        assert small.shape == (-(-height // down), -(-width // down), 3)
        for y in range(small.shape[0]):
            for x in range(small.shape[1]):
                block = image[y * down : (y + 1) * down, x * down : (x + 1) * down].reshape(-1, 3).astype(float)
                assert np.abs(small[y, x] - block.mean(0)).max() <= 0.5

    def test_one_to_one_changes_nothing(self):
        image = picture(4, 4)
        assert (scaled(image, Scale()) == image).all()

    @pytest.mark.parametrize("scale", [Scale(3), Scale(), Scale(1, 3)])
    def test_a_scale_says_how_many_cells_an_image_takes(self, scale):
        rows = half_blocks(scaled(picture(11, 16), scale))
        assert scale.cells(11, 16) == (len(rows), len(rows[0]))

    def test_scales_go_from_the_largest_to_the_smallest_that_can_be_recognised(self):
        assert [str(scale) for scale in scales(32, 32)] == ["8:1", "7:1", "6:1", "5:1", "4:1", "3:1", "2:1", "1:1", "1:2", "1:3", "1:4"]
        assert str(list(scales(8, 8))[-1]) == "1:1"


class TestLayout:
    @pytest.mark.parametrize("size", [(78, 22), (118, 38), (198, 58)])
    @pytest.mark.parametrize("side", [8, 16, 32, 64, 224])
    @pytest.mark.parametrize("per_class", [1, 10, 50])
    @pytest.mark.parametrize("panes", [1, 2])
    def test_everything_laid_out_is_inside(self, size, side, per_class, panes):
        layout = lay_out(*size, image=(side, side), per_class=per_class, classes=10, panes=panes)
        assert layout is not None
        assert layout.across * layout.block_width <= layout.pane_width and panes * layout.pane_width <= size[0]
        assert layout.columns * layout.tile_width <= layout.pane_width
        assert layout.rows * layout.tile_height + FRAME_ROWS <= size[1]

    def test_images_are_as_large_as_a_few_classes_and_images_allow(self):
        small = lay_out(78, 22, image=(32, 32), per_class=10, classes=10)
        large = lay_out(198, 58, image=(32, 32), per_class=10, classes=10)
        assert (str(small.scale), str(large.scale)) == ("1:4", "1:2")

    def test_with_one_image_each_classes_stand_side_by_side(self):
        layout = lay_out(118, 38, image=(16, 16), per_class=1, classes=10)
        assert layout.across > 1 and layout.classes >= 10

    def test_where_nothing_fits_there_is_no_layout(self):
        assert lay_out(8, 3, image=(32, 32), per_class=1, classes=1) is None
