"""The profile as a file: made here or by the job on another machine, described by a schema."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources

import jsonschema
import pytest

from spa import profiling
from spa.errors import ModelError
from spa.record import Profile, read_profile
from tests.latency import devices
from tests.latency.networks import chain

WITHOUT = ("spa", "onnx", "onnx_ir", "scipy", "ml_dtypes", "networkx")


def schema():
    return json.loads((resources.files("spa") / "profile.schema.json").read_text(encoding="utf-8"))


def test_a_profile_comes_back_from_its_text_and_is_what_the_schema_says():
    profile = devices.profile(chain(), devices.flops)
    record = json.loads(profile.to_json())
    jsonschema.validate({**record, "model": {**record["model"], "name": "", "precision": "float"}}, schema())
    assert Profile.from_json(profile.to_json()) == profile


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "this is no JSON"),
        ('{"format": "spa-plan-1"}', "expected a profile of format 'spa-profile-1', found 'spa-plan-1'"),
        ('{"format": "spa-profile-1"}', "KeyError at 'device'"),
        ("[]", "`spa profile` writes one"),
    ],
)
def test_what_is_no_profile_is_refused(tmp_path, text, message):
    path = tmp_path / "device.json"
    path.write_text(text)
    with pytest.raises(ModelError, match=message):
        read_profile(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"cannot read the profile .*No such file"):
        read_profile(tmp_path / "none.json")


def test_a_job_runs_with_numpy_and_onnxruntime_alone(tmp_path):
    pytest.importorskip("onnxruntime")
    job, result = tmp_path / "job.zip", tmp_path / "board.json"
    profiling.write_job(chain(), job)
    code = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({WITHOUT!r})); "
        f"sys.argv = [{str(job)!r}, '-o', {str(result)!r}, '--threads', '1', '--seconds', '0.5']; "
        f"runpy.run_path({str(job)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    jsonschema.validate(json.loads(result.read_text()), schema())
    profile = read_profile(result)
    assert profile.device.threads == 1
    assert len(profile.variants) == 13
    assert {unit.operator for unit in profile.variants[0].units} >= {"Conv", "Gemm"}
    assert profile.variants[0].removed == {}


def test_a_job_says_what_does_not_work(tmp_path):
    pytest.importorskip("onnxruntime")
    job = tmp_path / "job.zip"
    profiling.write_job(chain(), job)
    done = subprocess.run(
        [sys.executable, str(job), "--provider", "NoSuchProvider"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: NoSuchProvider does not work here; onnxruntime has ")
