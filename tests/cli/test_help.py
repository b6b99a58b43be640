"""Help comes at once, says what there is, and loads nothing heavy."""

import subprocess
import sys
from pathlib import Path

import pytest

VERBS = ("train", "tune", "evaluate", "export", "compare", "describe", "presets")
HEAVY = ("tensorflow", "keras", "tf_keras", "keras_tuner", "scipy", "sklearn", "polars", "matplotlib")
LOOK = f"""
import sys
from trainer.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code, stop.code
print(sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)
"""
SAID = {
    "train": ("--preset", "--config", "--workdir", "--restart", "--allow-below-baseline", "SETTING=VALUE", "runs/<name>"),
    "tune": ("--trials", "--sweep", "--preset", "Keras Tuner"),
    "evaluate": ("--workdir", "--baselines", "every registered baseline"),
    "export": ("--workdir", "new version", "--allow-below-baseline"),
    "compare": ("--presets", "--seeds", "--config", "runs/compare", "SETTING=VALUE"),
    "describe": ("CSV", "paste"),
    "presets": ("list the presets",),
}  # fmt: skip


def ask(*words: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    return subprocess.run([sys.executable, "-c", LOOK, *words], capture_output=True, text=True, cwd=root)


@pytest.mark.parametrize("words", [["--help"], *([verb, "--help"] for verb in VERBS), ["presets"]])
def test_help_loads_nothing_heavy(words):
    done = ask(*words)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"


def test_the_program_lists_its_verbs():
    said = ask("--help").stdout
    assert all(f"    {verb} " in said for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_what_it_takes(verb):
    said = " ".join(ask(verb, "--help").stdout.split())
    for word in (*SAID[verb], "--debug", f"python -m trainer {verb}"):
        assert word in said, word
