"""Build the sdist and the wheel, compare their files with git, install in a fresh venv, fit outside the checkout.

The wheel is built from the sdist, so it passes only if the sdist holds everything that the build needs.
"""

from __future__ import annotations

import email
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINKS = ("estimators", "infer", "models", "samplers")

FIT = """
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pushforward as pf

assert Path(pf.__file__).is_relative_to(sys.prefix), pf.__file__

def model(x):
    mu = numpyro.sample("mu", dist.Normal(0.0, 20.0))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("x", dist.Normal(mu, 1.0), obs=x)

x = 3.0 + jax.random.normal(jax.random.key(0), (20,))
precision = 1 / 400 + 20
exact_mean, exact_sd = float(x.sum()) / precision, precision**-0.5
target = pf.from_numpyro(model, x)
posterior = pf.fit(target, pf.MeanField(target), key=jax.random.key(1), progress=False)
draws = posterior.data["posterior"]["mu"]
error = abs(float(draws.mean()) - exact_mean) / exact_sd
ratio = float(draws.std()) / exact_sd
print(posterior.verdict.status, f"error of the mean {error:.3f} sd, ratio of sds {ratio:.3f}")
assert posterior.verdict.status == "ok", posterior.verdict.reasons
# 1,000 or more independent draws: 0.16 is five standard errors of the mean, 0.11 five of the sd.
assert error < 0.16 and abs(ratio - 1) < 0.11
posterior.save("run.nc")
assert pf.load("run.nc").verdict.status == "ok"
"""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command without this checkout on the import path and return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    result = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))[:200]} failed:\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}")
    return result.stdout


def tracked(*folders: str) -> set[str]:
    """Return the files under the folders that git has, or would have once added."""
    listing = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *folders, cwd=ROOT)
    return {line for line in listing.splitlines() if (ROOT / line).is_file()}


def check_sdist(path: Path) -> None:
    """Compare the sdist with git: the package is complete, nothing is untracked, and no root link was followed."""
    with tarfile.open(path) as archive:
        names = {member.name.split("/", 1)[1] for member in archive.getmembers() if not member.isdir()}
    missing = tracked("src/pushforward", "tests", "pyproject.toml", "LICENSE", "README.md") - names
    extra = names - tracked() - {"PKG-INFO"}
    through_links = {name for name in names if name.split("/")[0] in LINKS}
    if missing or extra or through_links:
        sys.exit(f"sdist: missing {sorted(missing)}, not in git {sorted(extra)}, through links {sorted(through_links)}")
    print(f"sdist: {len(names)} files, as in git")


def check_wheel(path: Path) -> None:
    """Compare the wheel with git and require `pushforward` to be the only thing it installs."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        info = next(name.split("/")[0] for name in names if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        licence = archive.read(f"{info}/licenses/LICENSE")
    shipped = {name for name in names if not name.startswith(f"{info}/")}
    expected = {name.removeprefix("src/") for name in tracked("src/pushforward")}
    if shipped != expected:
        sys.exit(f"wheel: missing {sorted(expected - shipped)}, not in git {sorted(shipped - expected)}")
    if {name.split("/")[0] for name in shipped} != {"pushforward"} or len(names) != len(set(names)):
        sys.exit(f"wheel: top level {sorted({name.split('/')[0] for name in shipped})}, or a file twice")
    if "pushforward/py.typed" not in shipped or licence != (ROOT / "LICENSE").read_bytes():
        sys.exit("wheel: py.typed or the licence is missing")
    heavy = [line for line in metadata.get_all("Requires-Dist", []) if "extra" not in line and line.startswith("torch")]
    if heavy or metadata["License-Expression"] != "Apache-2.0":
        sys.exit(f"wheel metadata: core requirements {heavy}, licence {metadata['License-Expression']}")
    print(f"wheel: {len(shipped)} files, as in git; {path.stat().st_size / 1024:.0f} KiB")


def main() -> None:
    """Build, compare, install, import, fit."""
    with tempfile.TemporaryDirectory(prefix="pushforward-wheel-") as folder:
        work = Path(folder)
        run(sys.executable, "-m", "build", "--outdir", work / "dist", ROOT)
        (sdist,), (wheel,) = (work / "dist").glob("*.tar.gz"), (work / "dist").glob("*.whl")
        check_sdist(sdist)
        check_wheel(wheel)
        venv.create(work / "venv", with_pip=True)
        binaries = work / "venv" / "bin"
        run(binaries / "python", "-m", "pip", "install", "--quiet", wheel)
        outside = work / "outside"
        outside.mkdir()
        (outside / "fit.py").write_text(FIT)
        print("fit:", run(binaries / "python", "-I", "fit.py", cwd=outside).strip())
        print("command line:", run(binaries / "pushforward", "info", cwd=outside).splitlines()[0].strip())
        installed = run(binaries / "python", "-m", "pip", "list", "--format=freeze").lower()
        unwanted = [line for line in installed.splitlines() if line.startswith(("torch=", "nvidia", "matplotlib="))]
        if unwanted:
            sys.exit(f"a plain install pulled {unwanted}")
    print("wheel check passed")


if __name__ == "__main__":
    main()
