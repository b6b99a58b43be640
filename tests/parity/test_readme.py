"""The Python example of the README, word for word, against a server."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_the_example_runs_as_it_stands(server, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert "http://127.0.0.1:8501" in example
    exec(example.replace("http://127.0.0.1:8501", server[0]), {})
    path, *lines = capsys.readouterr().out.splitlines()
    assert path == "known" and len(lines) == 10
