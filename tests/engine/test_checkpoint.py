"""Checkpoints: what comes back, and that damage never goes unnoticed."""

import pytest
import torch

from engine.compute.checkpoint import load_checkpoint, load_tensors, save_checkpoint, save_tensors
from engine.errors import RunError

VALUES = {"step": 7, "history": [{"top1": 12.5}], "previous": None, "name": "Vögel \udce4 ✓", "rate": 0.1}


def tensors():
    draws = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(2, 3, 2, 2, generator=draws).contiguous(memory_format=torch.channels_last),
        "count": torch.tensor(5),
        "half": torch.randn(3, generator=draws).bfloat16(),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 4),
    }


class TestRoundTrip:
    def test_tensors_and_values_come_back(self, tmp_path):
        save_tensors(tmp_path / "file", tensors(), VALUES)
        found, values = load_tensors(tmp_path / "file")
        assert values == VALUES
        assert set(found) == set(tensors())
        for name, tensor in tensors().items():
            assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype and found[name].shape == tensor.shape

    def test_values_may_be_left_out(self, tmp_path):
        save_tensors(tmp_path / "file", tensors())
        assert load_tensors(tmp_path / "file")[1] == {}

    def test_equal_contents_are_equal_bytes(self, tmp_path):
        for number in range(10):
            save_tensors(tmp_path / str(number), tensors(), VALUES)
        assert len({(tmp_path / str(number)).read_bytes() for number in range(10)}) == 1

    def test_tensors_may_share_storage_and_need_gradients(self, tmp_path):
        whole = torch.arange(6.0, requires_grad=True)
        save_tensors(tmp_path / "file", {"whole": whole, "same": whole, "part": whole[2:4], "transposed": whole.view(2, 3).T})
        found, _ = load_tensors(tmp_path / "file")
        assert found["same"].tolist() == found["whole"].tolist() == [0, 1, 2, 3, 4, 5]
        assert found["part"].tolist() == [2, 3] and found["transposed"].tolist() == [[0, 3], [1, 4], [2, 5]]

    def test_numbers_that_are_none_keep_their_bits(self, tmp_path):
        save_tensors(tmp_path / "file", {"x": torch.tensor([float("nan"), float("inf"), -0.0])})
        found = load_tensors(tmp_path / "file")[0]["x"]
        assert found[0].isnan() and found[1].isinf() and torch.signbit(found[2])


class TestDamage:
    def test_every_single_flipped_bit_is_noticed(self, tmp_path):
        path = tmp_path / "file"
        save_tensors(path, {"a": torch.arange(4.0), "b": torch.tensor([1, 2])}, {"step": 7})
        data = path.read_bytes()
        content = load_tensors(path)
        unnoticed = []
        for position in range(len(data)):
            for bit in (1, 32, 128):
                path.write_bytes(data[:position] + bytes([data[position] ^ bit]) + data[position + 1 :])
                try:
                    found = load_tensors(path)
                except RunError as error:
                    assert str(path) in str(error)
                else:
                    # The header ends in spaces that mean nothing; whatever else is not noticed would be wrong content.
                    same = found[1] == content[1] and all(torch.equal(found[0][name], content[0][name]) for name in content[0])
                    unnoticed.append((position, bit, same))
        assert all(same for _, _, same in unnoticed) and len(unnoticed) < 30

    @pytest.mark.parametrize("kept", [0, 1, 7, 8, 50, 300, -1])
    def test_a_truncated_file_cannot_be_read(self, tmp_path, kept):
        path = tmp_path / "file"
        save_tensors(path, tensors(), VALUES)
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(RunError, match="cannot be read"):
            load_tensors(path)

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(RunError, match=r"nothing\.safetensors"):
            load_tensors(tmp_path / "nothing.safetensors")

    def test_a_file_of_another_program_is_refused(self, tmp_path):
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(2)}, tmp_path / "plain")
        save_file({"a": torch.zeros(2)}, tmp_path / "other", metadata={"checkpoint": "[1, 2]"})
        for name in ("plain", "other"):
            with pytest.raises(RunError, match="cannot be read"):
                load_tensors(tmp_path / name)

    def test_a_folder_that_cannot_be_written_is_named(self, tmp_path):
        with pytest.raises(RunError, match="cannot write"):
            save_tensors(tmp_path / "missing" / "file", tensors())


class TestNewestUndamaged:
    def test_nothing_there_is_a_fresh_start(self, tmp_path):
        assert load_checkpoint(tmp_path) == ({}, {}, [])

    def test_the_newest_is_taken_and_the_one_before_kept(self, tmp_path):
        for step in (1, 2, 3):
            save_checkpoint(tmp_path, {"x": torch.tensor([float(step)])}, {"step": step})
        found, values, damaged = load_checkpoint(tmp_path)
        assert (found["x"].item(), values, damaged) == (3.0, {"step": 3}, [])
        assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.previous.safetensors", "checkpoint.safetensors"]
        assert load_tensors(tmp_path / "checkpoint.previous.safetensors")[1] == {"step": 2}

    def test_a_damaged_one_gives_way_to_the_one_before_and_is_told(self, tmp_path):
        for step in (1, 2):
            save_checkpoint(tmp_path, {"x": torch.tensor([float(step)])}, {"step": step})
        newest = tmp_path / "checkpoint.safetensors"
        newest.write_bytes(newest.read_bytes()[:-1] + b"\x01")
        _, values, damaged = load_checkpoint(tmp_path)
        assert values == {"step": 1}
        assert len(damaged) == 1 and str(newest) in damaged[0] and "\n" not in damaged[0]

    def test_two_damaged_ones_are_a_fresh_start_with_two_complaints(self, tmp_path):
        for step in (1, 2):
            save_checkpoint(tmp_path, {"x": torch.tensor([float(step)])}, {"step": step})
        for path in tmp_path.iterdir():
            path.write_bytes(b"")
        found, values, damaged = load_checkpoint(tmp_path)
        assert (found, values, len(damaged)) == ({}, {}, 2)
