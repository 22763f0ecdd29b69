"""The script of the page on sharded training, as torchrun runs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "sharded-training.md"


def test_the_script_trains_on_two_processes_and_says_what_it_saw(tmp_path):
    (code,) = re.findall(r"```py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "train.py").write_text(code, encoding="utf-8")
    process = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TORCHELASTIC_ERROR_FILE": ""},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert "Monitor of AdamW, every 5 steps" in process.stdout
    assert "12 readings, steps 0 to 55" in process.stdout
    loss = float(re.search(r"loss ([0-9.]+); saved and loaded", process.stdout)[1])
    assert loss < 3.3, "as good as guessing"  # log 32 = 3.47
    assert (tmp_path / "checkpoint").is_dir()
