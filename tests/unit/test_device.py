"""Which device and precision a run uses, with machines that are made up."""

import subprocess
from types import SimpleNamespace

import pytest

from engine.compute import device
from engine.errors import UserError


@pytest.fixture
def machine(monkeypatch):
    """Pretend that the machine has GPUs of these compute capabilities and a CPU with these flags."""

    def pretend(*capabilities: float, flags: tuple[str, ...] = ()) -> None:
        monkeypatch.setattr(device, "cuda_capabilities", lambda: capabilities)
        monkeypatch.setattr(device, "cpu_flags", lambda: frozenset(flags))

    return pretend


class TestDevice:
    def test_auto_is_the_first_gpu_or_else_the_cpu(self, machine):
        machine(8.9, 7.5)
        assert device.resolve_device("auto") == "cuda"
        machine()
        assert device.resolve_device("auto") == "cpu"

    def test_what_is_asked_for_is_used_where_it_is_there(self, machine):
        machine(8.9, 7.5)
        assert [device.resolve_device(name) for name in ("cpu", "cuda", "cuda:0", "cuda:1")] == ["cpu", "cuda", "cuda:0", "cuda:1"]

    @pytest.mark.parametrize(
        ("capabilities", "name", "count"),
        [((), "cuda", "0 CUDA devices"), ((8.9,), "cuda:1", "1 CUDA device;"), ((), "cuda:3", "0 CUDA devices")],
    )
    def test_a_gpu_that_is_not_here_is_refused_saying_how_many_are(self, machine, capabilities, name, count):
        machine(*capabilities)
        with pytest.raises(UserError, match=f"{name} is not here; this machine has {count}"):
            device.resolve_device(name)


class TestPrecision:
    @pytest.mark.parametrize(
        ("flags", "precision"),
        [
            ((), "float32"),
            (("avx2", "avx512f", "avx512_vnni"), "float32"),
            (("avx512f", "avx512_bf16"), "bfloat16"),
            (("amx_bf16", "amx_tile"), "bfloat16"),
            (("asimd", "bf16"), "bfloat16"),
            (("amx_tile", "amx_int8"), "float32"),
        ],
    )
    def test_a_cpu_computes_in_bfloat16_only_where_that_is_native(self, machine, flags, precision):
        machine(flags=flags)
        assert device.resolve_precision("auto", "cpu") == precision

    @pytest.mark.parametrize(
        ("capabilities", "name", "precision"),
        [((8.0,), "cuda", "bfloat16"), ((9.0,), "cuda:0", "bfloat16"), ((7.5,), "cuda", "float32"), ((8.6, 7.0), "cuda:1", "float32")],
    )
    def test_a_gpu_does_from_ampere_on(self, machine, capabilities, name, precision):
        machine(*capabilities, flags=("avx512_bf16",))
        assert device.resolve_precision("auto", name) == precision

    def test_what_is_asked_for_is_kept(self, machine):
        machine(7.5, flags=())
        assert device.resolve_precision("bfloat16", "cpu") == "bfloat16"
        assert device.resolve_precision("float32", "cuda") == "float32"
        assert device.resolve_precision("float16", "cuda") == "float16"

    def test_float16_on_a_cpu_is_refused(self, machine):
        machine()
        with pytest.raises(UserError, match="float16 needs cuda"):
            device.resolve_precision("float16", "cpu")


class TestVisibleDevices:
    DEVICES = [("GPU-aaaa-1111", 7.5), ("GPU-aabb-2222", 8.0), ("GPU-cccc-3333", 9.0)]

    @pytest.mark.parametrize(
        ("visible", "capabilities"),
        [
            (None, (7.5, 8.0, 9.0)),
            ("0,1,2", (7.5, 8.0, 9.0)),
            ("2,0", (9.0, 7.5)),
            (" 1 ", (8.0,)),
            ("", ()),
            ("-1", ()),
            ("0,7,1", (7.5,)),  # as CUDA does: what follows an entry that names none does not count
            ("GPU-cccc", (9.0,)),
            ("GPU-aa", ()),  # two devices begin so
            ("MIG-4c7f,0", (8.0, 7.5)),
        ],
    )
    def test_the_environment_chooses_and_orders_them(self, visible, capabilities):
        assert device.visible_capabilities(self.DEVICES, visible) == capabilities

    @pytest.fixture
    def driver(self, monkeypatch):
        """Pretend that nvidia-smi is there and prints this, or fails."""
        device._gpus.cache_clear()

        def pretend(output: str | Exception, torch: str = "2.9.0+cu130"):
            def answer(command, **options):
                if isinstance(output, Exception):
                    raise output
                return SimpleNamespace(stdout=output)

            monkeypatch.setattr(device.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
            monkeypatch.setattr(device.importlib.metadata, "version", lambda name: torch)
            monkeypatch.setattr(device.subprocess, "run", answer)
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

        yield pretend
        device._gpus.cache_clear()

    def test_they_are_read_from_the_driver(self, driver):
        driver("GPU-aaaa-1111, 9.0\nGPU-bbbb-2222, 8.6\n")
        assert device.cuda_capabilities() == (9.0, 8.6)

    def test_those_hidden_by_the_environment_are_not_there(self, driver, monkeypatch):
        driver("GPU-aaaa-1111, 9.0\nGPU-bbbb-2222, 8.6\n")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        assert device.cuda_capabilities() == (8.6,)

    def test_a_torch_without_cuda_sees_none(self, driver):
        driver("GPU-aaaa-1111, 9.0\n", torch="2.9.0+cpu")
        assert device.cuda_capabilities() == ()

    @pytest.mark.parametrize(
        "failure", [subprocess.CalledProcessError(9, "nvidia-smi"), OSError(), "No devices were found\n", "GPU-1, [N/A]\n"]
    )
    def test_a_driver_that_does_not_answer_has_none(self, driver, failure):
        driver(failure)
        assert device.cuda_capabilities() == ()
