"""Batches on Ray: real actors with real servers, of which some are killed. `pip install ray` has these tests run."""

import json
import subprocess
import sys

import psutil
import pytest
from likeness.launcher import batch, ray_crew
from likeness.launcher.run import RunError
from likeness.tests.launcher.test_batch_server import LIMIT, check_all, light, wait_for  # noqa: F401
from likeness.tests.support import checkout


def test_without_ray_it_says_how_to_have_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(ray_crew.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RunError, match="--ray needs Ray: .*-m pip install 'ray"):
        ray_crew.RayCrew("local", 2, tmp_path, True)


@pytest.fixture
def ray(monkeypatch):
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else 15, which a loaded machine gives no time
    return pytest.importorskip("ray")


@pytest.mark.slow
def test_no_cluster_at_the_address(ray, tmp_path):
    with pytest.raises(RunError, match="The Ray cluster 127.0.0.1:1 cannot be joined"):
        ray_crew.RayCrew("127.0.0.1:1", None, tmp_path, True)


@pytest.mark.slow
def test_a_cluster_of_another_python(ray, tmp_path, monkeypatch):
    monkeypatch.setattr(ray._private.utils, "compute_version_info", lambda: (ray.__version__, "3.9.0"))
    cluster = ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        monkeypatch.undo()
        script = f"""
import importlib.util, sys
root = {str(checkout.ROOT)!r}
spec = importlib.util.spec_from_file_location("likeness", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["likeness"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["likeness"])
from likeness.launcher import ray_crew
ray_crew.RayCrew({cluster.address_info["gcs_address"]!r}, 1, None, True)
"""
        joined = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=LIMIT)
    finally:
        ray.shutdown()
    assert "cannot be joined: it runs another Python or Ray than this one" in joined.stderr


def list_actors(driver: subprocess.Popen) -> list[psutil.Process]:
    processes = psutil.Process(driver.pid).children(recursive=True)
    return [process for process in processes if "ray::Actor" in " ".join(process.cmdline())]


@pytest.mark.slow
def test_every_cell_once_though_a_worker_and_the_driver_are_killed(ray, base, light, tmp_path):  # noqa: F811
    out = tmp_path / "out"
    arguments = ["--workflow", light, "--out", out, "--ray", "local", "--workers", "2", "--grid", "color=0..199"]
    command = checkout.command(base, "batch", *arguments)
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(out, 67, driver)
    victim = list_actors(driver)[0]
    started = victim.children(recursive=True)
    victim.kill()
    wait_for(out, 134, driver)
    driver.kill()
    driver.communicate(timeout=LIMIT)
    assert not psutil.wait_procs(started, timeout=LIMIT)[1], "the server of a killed worker runs on"
    again = subprocess.run(command, capture_output=True, text=True, timeout=2 * LIMIT)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["there"] >= 134
    check_all(out, 200)
    assert batch.TRIES > 1
