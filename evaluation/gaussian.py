"""A normal distribution with the moments of simulated outputs: distances, and what one output says of another."""

from __future__ import annotations

import numpy as np

MOST_ELEMENTS = 200  # of which a covariance is estimated; more are reduced to principal components
MOST_ROWS = 2000
WIDEST = 1e3  # standard deviations beyond which a value is taken as this


class FittedGaussian:
    """A normal distribution with the moments of outputs (n, E)."""

    def __init__(self, train: np.ndarray) -> None:
        from sklearn.covariance import ledoit_wolf

        self.mean, self.scale = train.mean(0), train.std(0)
        self.scale = np.where(self.scale > 0, self.scale, max(float(self.scale.max()), 1.0) * 1e-6)
        rows = self._standard(train[:MOST_ROWS])
        size = rows.shape[1]
        self.basis = np.eye(size)
        self.wide = size > MOST_ELEMENTS
        if self.wide:
            count = min(MOST_ELEMENTS, len(rows) // 4)
            _, _, vectors = np.linalg.svd(rows, full_matrices=False)
            self.basis = vectors[:count].T
        covariance, _ = ledoit_wolf(rows @ self.basis, assume_centered=True)
        self.precision = np.linalg.inv(covariance + 1e-9 * np.eye(len(covariance)))

    def _standard(self, x: np.ndarray) -> np.ndarray:
        return np.clip((x - self.mean) / self.scale, -WIDEST, WIDEST)

    def distances(self, x: np.ndarray) -> np.ndarray:
        """Return (x - mu)' Lambda (x - mu), and what principal components leave, shape (n,)."""
        rows = self._standard(x)
        parts = rows @ self.basis
        distance = np.einsum("ni,ij,nj->n", parts, self.precision, parts)
        return np.asarray(distance + np.sum((rows - parts @ self.basis.T) ** 2, axis=1))

    def residuals(self, x: np.ndarray) -> np.ndarray:
        """Return r_j (n, E); of very many elements the standardised value in its place."""
        rows = self._standard(x)
        return rows if self.wide else rows @ self.precision / np.sqrt(np.diag(self.precision))

    def without(self, x: np.ndarray, block: np.ndarray) -> np.ndarray:
        """Return an observation (E,) with elements replaced by what the others lead to expect.

            x_B <- x_B - Lambda_BB^-1 (Lambda (x - mu))_B

        Arguments:
            block: indices of the elements B; of very many outputs, they get the mean of all simulations.
        """
        changed = np.array(x, float)
        if self.wide:
            changed[block] = self.mean[block]
            return changed
        row = self._standard(x[None])[0]
        shift = np.linalg.solve(self.precision[np.ix_(block, block)], (self.precision @ row)[block])
        changed[block] = (row[block] - shift) * self.scale[block] + self.mean[block]
        return changed
