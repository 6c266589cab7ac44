"""The CMPE paper's method as published, a plug-in, and its two moons, reproduced and corrected.

The estimator is `benchmarks.paper.cmpe_paper:CMPEPaper` wherever an estimator is named;
`python -m benchmarks.paper` measures it.
"""

NAME = "benchmarks.paper.cmpe_paper:CMPEPaper"
