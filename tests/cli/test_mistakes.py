"""What users get wrong, and what the command answers: one line that says what to do, status 2 or 1, nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from spa import document
from tests.cli.conftest import Ran
from tests.small import entries

PRUNE = "prune model.onnx --ratio 0.3"

# fmt: off
MISTAKES: dict[str, tuple[str, int, str]] = {
    "a command that there is not": ("prun model.onnx --ratio 0.3", 2, "No such command 'prun'"),
    "no share": ("prune model.onnx", 2, "give ratio (--ratio 30%), target"),
    "a share and a limit": (f"{PRUNE} --max-loss 0.1", 2, "ratio and max_loss both say how much goes"),
    "a limit of nothing": ("prune model.onnx --max-loss 0", 2, "max_loss 0: expected a number above 0"),
    "a limit in words": ("prune model.onnx --max-loss little", 2, "--max-loss 'little': expected a number"),
    "a limit that cannot be met": (
        "prune model.onnx --max-loss 1e-9 --weights",
        1,
        "cannot be met: the smallest reached is",
    ),
    "a metric without a limit": (f"{PRUNE} --metric math:sqrt", 2, "metric has no effect without max_loss"),
    "a metric that is nowhere": ("prune model.onnx --max-loss 1 --metric no:where", 2, "--metric No module named 'no'"),
    "a metric that raises": (
        "prune model.onnx --max-loss 1 --weights --metric math:sqrt",
        2,
        "metric sqrt, called with the path of model.onnx, raised TypeError",
    ),
    "a metric that gives a name": (
        "sweep model.onnx --ratios 0.3 --weights --metric os.path:basename",
        2,
        "expected a finite number, found 'model.onnx'",
    ),
    "no ratios": ("sweep model.onnx", 2, "Missing option '--ratios'"),
    "ratios the wrong way round": ("sweep model.onnx --ratios 0.7:0.1", 2, "--ratios '0.7:0.1': expected LOW:HIGH"),
    "a list in percent without a sign": ("sweep model.onnx --ratios 10,30 --weights", 2, "did you mean 10%,30%?"),
    "a list whose first has no sign": ("sweep model.onnx --ratios 30,50% --weights", 2, "did you mean 30%,50%?"),
    "a list of which one is in percent": ("sweep model.onnx --ratios 0.1,30 --weights", 2, "did you mean 0.1,30%?"),
    "more than all": ("sweep model.onnx --ratios 150% --weights", 2, "did you mean shares below 1?"),
    "steps in percent without a sign": ("sweep model.onnx --ratios 10:70:10 --weights", 2, "did you mean 10%:70%:10%?"),
    "a range in percent without a sign": ("sweep model.onnx --ratios 10:70 --weights", 2, "did you mean 10%:70%?"),
    "a file without an ending": (f"{PRUNE} -o there/", 2, "expected a name that ends in .onnx, such as there.onnx"),
    "ratios in percent without a sign": ("sweep model.onnx --ratios 10,30", 2, "expected shares between 0 and 1"),
    "a picture of no kind": ("sweep model.onnx --ratios 0.3 --plot x.pdf", 2, "ends in .svg or .png"),
    "a page of no kind": (f"{PRUNE} --report page.pdf", 2, "expected a name that ends in .html"),
    "a page over the model": ("bench model.onnx --report model.onnx", 2, "choose another name"),
    "a percentage without its sign": (
        "prune model.onnx --ratio 30",
        2,
        "did you mean 0.3 or, on the command line, 30%?",
    ),
    "all of it": ("prune model.onnx --ratio 100%", 2, "expected a share between 0 and 1, both excluded"),
    "a share in words": ("prune model.onnx --ratio half", 2, "--ratio 'half': expected a share such as 0.3 or 30%"),
    "a comma for a point": ("prune model.onnx --ratio 0,3", 2, "--ratio '0,3': expected a share such as 0.3 or 30%"),
    "more than can go": ("prune model.onnx --ratio 95%", 1, "cannot be met: at most "),
    "a flag misspelt": ("prune model.onnx --ratoi 0.3", 2, "No such option: --ratoi"),
    "a measure misspelt": (
        f"{PRUNE} --of flop",
        2,
        "expected one of params, flops, bytes, latency, channels; did you mean flops?",
    ),
    "a scope misspelt": (f"{PRUNE} --scope globl", 2, "did you mean global?"),
    "a criterion misspelt": (f"{PRUNE} --criterion fpmg", 2, "did you mean fpgm?"),
    "a way to repair without samples": (f"{PRUNE} --weights --criterion obspa", 2, "needs samples: leave weights out"),
    "a group misspelt": (f"{PRUNE} --exclude c0:1", 2, "close to it: c0:0"),
    "no file": ("prune modell.onnx --ratio 0.3", 2, "cannot read 'modell.onnx': No such file or directory"),
    "an address": (
        "prune https://example.com/net.onnx --ratio 0.3",
        2,
        "'https://example.com/net.onnx' is an address: download it first, with curl -LO https://example.com/net.onnx",
    ),
    "a name on a hub": (
        "prune prajjwal1/bert-tiny --ratio 0.3",
        2,
        "hf download prajjwal1/bert-tiny --local-dir bert-tiny",
    ),
    "data at an address": (f"{PRUNE} --data https://example.com/x.npz", 2, "is an address: download it first"),
    "weights of torch": ("prune net.pth --ratio 0.3", 2, "not an ONNX model"),
    "a text": ("prune notes.onnx --ratio 0.3", 2, "text, not an ONNX model: it starts with 'remember"),
    "a folder that is no model": ("prune empty --ratio 0.3", 2, "folder without config.json"),
    "effort without samples": (f"{PRUNE} --weights --preset best", 2, "preset has no effect without samples"),
    "images without samples": (f"{PRUNE} --image-mean 0.5", 2, "images has no effect without samples"),
    "images where arrays are": (
        f"{PRUNE} --data x.npz --image-mean 0.5",
        2,
        "it holds no images, so mean, std and size",
    ),
    "scores of weights with samples": (f"{PRUNE} --data x.npz --gather mean", 2, "gather has no effect with samples"),
    "samples given and made up": (f"{PRUNE} --data x.npz --data-free", 2, "exclude each other"),
    "samples and weights alone": (f"{PRUNE} --data x.npz --weights", 2, "weights and data exclude each other"),
    "a range without its end": (f"{PRUNE} --input-range x=255", 2, "--input-range 'x=255': expected NAME=LOW:HIGH"),
    "channels last": (f"{PRUNE} --data hwc.npz", 2, "the axes are in another order: transpose the samples"),
    "a damaged picture": (f"{PRUNE} --data photos", 2, "this is no image that can be read"),
    "samples of words": (f"{PRUNE} --data words.npz", 2, "input 'x' takes samples of shape (3, 8, 8)"),
    "a function that fails": (
        f"{PRUNE} --data failing:samples",
        2,
        "the function raised ZeroDivisionError (division by zero)",
    ),
    "fewer threads than one": ("bench model.onnx --threads 0", 2, "threads 0: expected a whole number of threads"),
    "samples of another input": (f"{PRUNE} --data other.npz", 2, "no samples for input 'x'"),
    "samples that say nothing": (f"{PRUNE} --data zero.npz", 2, "all samples of input 'x' are zero"),
    "a name where no model is written": (
        f"{PRUNE} --dry-run -o small.onnx",
        2,
        "--output has no effect with --dry-run",
    ),
    "unchecked where nothing is made": (
        f"{PRUNE} --dry-run --no-verify",
        2,
        "--no-verify has no effect with --dry-run",
    ),
    "quiet and talkative": (f"{PRUNE} -q -v", 2, "--verbose has no effect with --json or --quiet"),
    "onto itself": (f"{PRUNE} -o model.onnx", 2, "choose another name"),
    "into no folder": (f"{PRUNE} -o results/small.onnx", 2, "there is no folder"),
    "a shape without a name": (f"{PRUNE} --input 1,3,8,8", 2, "expected NAME=SIZES such as pixels=1,3,224,224"),
    "a shape of another input": (f"{PRUNE} --input y=1,3,8,8", 2, "no input is named 'y'"),
    "a model for a plan": ("apply model.onnx model.onnx", 2, "it is no text"),
    "notes for a plan": (
        "apply model.onnx notes.onnx",
        2,
        "this is no JSON, line 1; `spa prune --save-plan` writes one",
    ),
    "an empty plan": ("apply model.onnx empty.json", 2, "it is empty"),
    "no plan": ("verify model.onnx model.onnx", 2, "Missing option '--plan'"),
    "a plan of another model": ("apply model.onnx plan.json", 2, "which is no group of this model"),
    "a rule misspelt": ("rule Convv", 2, "did you mean Conv?"),
    "export of ONNX": ("export model.onnx", 2, "this is ONNX already"),
}
# fmt: on


@pytest.fixture
def there(workdir: Path) -> Path:
    (workdir / "empty").mkdir()
    (workdir / "notes.onnx").write_text("remember the milk\n")
    (workdir / "net.pth").write_bytes(b"PK\x03\x04" + bytes(range(256)))
    (workdir / "empty.json").touch()
    (workdir / "plan.json").write_text(
        '{"format": "spa-plan-1", "groups": [{"group": "q", "size": 4, "removed": [1]}]}'
    )
    np.savez(workdir / "x.npz", x=np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32))
    np.savez(workdir / "other.npz", z=np.ones((4, 3, 8, 8), np.float32))
    np.savez(workdir / "hwc.npz", x=np.ones((4, 8, 8, 3), np.float32))
    np.savez(workdir / "words.npz", x=np.array(["cat", "dog"]))
    (workdir / "photos").mkdir()
    (workdir / "photos" / "cat.jpg").write_bytes(b"\xff\xd8 no picture")
    (workdir / "failing.py").write_text("def samples():\n    return 1 / 0\n")
    np.savez(workdir / "zero.npz", x=np.zeros((4, 3, 8, 8), np.float32))
    return workdir


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_a_line(
    there: Path,
    run: Callable[..., Ran],
    mistake: str,
) -> None:
    words, code, answer = MISTAKES[mistake]
    before = entries(there)
    ran = run(*words.split())
    assert (ran.code, ran.out, ran.err.count("\n")) == (code, "", 1)
    assert ran.err.startswith("error: ")
    assert answer in ran.err
    for internal in ("JSONDecodeError", "KeyError", "Error:", "<class", "0x"):
        assert internal not in ran.err
    assert entries(there) == before


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_with_json_is_an_object(
    there: Path,
    run: Callable[..., Ran],
    mistake: str,
) -> None:
    words, code, answer = MISTAKES[mistake]
    if words.startswith(("rule", "export")) or "-q" in words:
        pytest.skip("takes no --json")
    before = entries(there)
    ran = run(*words.split(), "--json")
    parsed = json.loads(ran.out)
    jsonschema.validate(parsed, document.schema())
    assert parsed["kind"] == "error"
    assert (ran.code, parsed["error"]["exit_code"]) == (code, code)
    assert answer in parsed["error"]["message"]
    assert entries(there) == before


def test_there_are_thirty_of_them_and_each_is_one_of_its_own() -> None:
    assert len(MISTAKES) >= 30
    assert len({words for words, _, _ in MISTAKES.values()}) == len(MISTAKES)
