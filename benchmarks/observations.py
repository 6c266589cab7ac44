"""The ten fixed observations of sbibm's tasks, as its version 1.1.0 ships them, or from a copy of it.

Benchmarking Simulation-Based Inference (2021), arXiv 2101.04653.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

FILES = {  # of a task: its folder and file in sbibm, where they are not called as the task
    "bernoulli_glm_raw": ("bernoulli_glm", "observation_raw.csv"),
    "gaussian_mixture_uniform": ("gaussian_mixture", "observation.csv"),
    "slcp_distractors": ("slcp", "observation_distractors.csv"),
}


def of_sbibm(folder: Path, task: str) -> np.ndarray:
    """Return the ten observations of a task, (10, ...), from a copy of sbibm's repository.

    Raises: FileNotFoundError: the folder is no such copy.
    """
    own, file = FILES.get(task, (task, "observation.csv"))
    place = folder / "sbibm" / "tasks" / own / "files"
    paths = [place / f"num_observation_{i}" / file for i in range(1, 11)]
    if missing := [path for path in paths if not path.exists()]:
        raise FileNotFoundError(f"{folder} is no copy of sbibm's repository: no {missing[0]}")
    return np.stack([np.loadtxt(path, delimiter=",", skiprows=1) for path in paths])


SBIBM: dict[str, np.ndarray] = {
    "slcp": np.array(
        [
            [
                2.3718784,
                0.49947417,
                9.931435,
                1.7136912,
                -10.436423,
                -1.9067793,
                -1.2343777,
                -0.09735,
            ],
            [
                -0.66452104,
                -2.9279308,
                -16.49147,
                4.06107,
                4.232153,
                -4.652277,
                -4.9924355,
                -1.5655216,
            ],
            [3.5023372, 5.254722, 8.685451, 9.995327, 0.40782332, -5.7111573, 10.605566, 12.695774],
            [
                -1.6371447,
                -0.037302777,
                -1.5622597,
                0.031204943,
                -3.683134,
                0.09953671,
                -1.7389069,
                0.0309663,
            ],
            [-8.801672, 8.726709, -10.484016, 6.857725, -6.769688, 7.574161, 3.804308, 2.7593615],
            [
                0.069512725,
                4.0657325,
                -1.1986864,
                0.94379723,
                -1.4434359,
                0.02170819,
                -4.4811616,
                -4.26959,
            ],
            [
                -3.0776706,
                -1.2080946,
                25.778881,
                -2.244017,
                -0.77473235,
                -1.5114331,
                5.919487,
                -1.6953411,
            ],
            [
                1.2463324,
                -2.414371,
                -2.9786007,
                -2.3214335,
                -17.3002,
                -3.298883,
                -13.487199,
                -3.023044,
            ],
            [
                4.755368,
                -2.3791986,
                3.5834174,
                -1.444761,
                5.063205,
                -3.448882,
                0.56577647,
                1.3524654,
            ],
            [
                1.3710914,
                -2.39026,
                1.8363019,
                -2.4391632,
                2.013802,
                -3.2097385,
                2.4036794,
                -3.0089793,
            ],
        ]
    ).reshape(10, 8),
    "two_moons": np.array(
        [
            [-0.6396706, 0.16234657],
            [-0.5676688, -0.33194834],
            [0.0030109584, -0.6457662],
            [-0.25049388, 0.633055],
            [-0.66463584, -0.42604533],
            [-0.12940255, 0.3873573],
            [0.19458583, 1.0400153],
            [0.13603824, 0.9160449],
            [-0.17962828, -0.5452459],
            [0.14563406, -1.170141],
        ]
    ),
}
