"""Stand-ins for the tools of a SLURM cluster: programs that refuse what the real ones would, on one machine."""

import sys
from pathlib import Path

SBATCH = """
import json, pathlib, shlex, subprocess, sys
# Reads the options as sbatch does: quotes and backslashes as in a shell; in a file's name %% is one %, and %j the number of the job.
here = pathlib.Path(sys.argv[0]).parent
if sys.argv[1:] != ["--parsable"]: sys.exit(f"sbatch: error: unexpected {sys.argv[1:]}")
script = sys.stdin.read()
options = {}
for line in script.splitlines():
    if not line.startswith("#"): break
    if not line.startswith("#SBATCH "): continue
    (word,) = shlex.split(line.removeprefix("#SBATCH "), comments=True)
    name, _, value = word.removeprefix("--").partition("=")
    options[name] = value
(here / "options").write_text(json.dumps(options))
log = options["output"].replace("%%", "\\0").replace("%j", "42").replace("\\0", "%")
(here / "script").write_text(script)
with open(log, "a") as file:
    done = subprocess.run(["bash", "-c", script], env=__import__("os").environ | {"SLURM_JOB_NODELIST": "x", "SLURM_JOB_ID": "42"},
                          stdout=file, stderr=file)
(here / "status").write_text(str(done.returncode))
print("42")
"""
SRUN = """
import os, sys
known = ("--overlap", "--nodes=", "--ntasks=", "--nodelist=", "--exclude=")
words = sys.argv[1:]
while words and words[0].startswith("-"):
    if not words[0].startswith(known): sys.exit(f"srun: error: unrecognized option {words[0]}")
    words.pop(0)
os.execvp(words[0], words)
"""
RAY = """
import os, sys, time
words = sys.argv[1:]
if words[0] == "symmetric-run": os.execvp(words[words.index("--") + 1], words[words.index("--") + 1:])
if words[0] == "health-check": sys.exit(0 if words[1] == "--address" and ":" in words[2] else 2)
if words[0] != "start" or "--block" not in words: sys.exit(f"unexpected ray {words}")
with open(os.path.join(os.path.dirname(sys.argv[0]), "started"), "a") as file: file.write(" ".join(words) + "\\n")
time.sleep(600)
"""
TRAINING = """
import json, os, sys
with open(os.path.join(os.path.dirname(sys.argv[0]), "words"), "w") as file: json.dump([*sys.argv[1:], os.getcwd()], file)
"""
TRAINING_OF_TWO_NODES = f"""{TRAINING}
import time
while True:  # the workers join while it waits for their places
    with open(os.path.join(os.path.dirname(sys.argv[0]), "started")) as file:
        if len(file.readlines()) == 2: sys.exit()
    time.sleep(0.05)
"""
SCONTROL = """
import sys
if sys.argv[1:3] == ["show", "hostnames"]: print("node1\\nnode2")
elif sys.argv[1:] == ["show", "job", "42", "--oneliner"]: print("JobId=42 JobState=COMPLETED")
else: sys.exit(f"scontrol: error: unexpected {sys.argv[1:]}")
"""
HOSTNAME = """
import sys
print({{"--ip-address": "127.0.1.1 fd00::7", "--all-ip-addresses": "fd00::7 {0} 172.17.0.1"}}[sys.argv[1]])
"""


def make_tool(folder: Path, name: str, program: str) -> None:
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{program.strip()}\n")
    path.chmod(0o755)
