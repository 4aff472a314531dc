"""For docs/choose/regularizer.md: X_t over t for each f, its zeros, and the size of its gradient."""

import matplotlib.pyplot as plt
import style
import torch

import polytopes
import sst_cvx as sst

U = torch.tensor([1.0, 0.6, 0.5, -0.2, -0.8], dtype=torch.float64)
T = torch.logspace(-2, 1, 151, dtype=torch.float64)
REGULARIZERS = {
    "Euclidean": sst.Euclidean(),
    "Tsallis 1.5": sst.TsallisEntropy(1.5),
    "categorical": sst.CategoricalEntropy(),
    "binary": sst.BinaryEntropy(),
    "exponential family": sst.ExponentialFamilyEntropy(),
}
picks = polytopes.KSubset(5, 2)


def paths() -> None:
    """Broad and pale where an entry is exactly 0 or 1."""
    figure, axes = plt.subplots(1, 5, figsize=(10, 2.6), sharey=True, layout="constrained")
    for ax, (name, f) in zip(axes, REGULARIZERS.items(), strict=True):
        x = sst.SoftArgmax(picks, f)(U.expand(len(T), 5), T)
        for i, colour in enumerate(style.COLOURS):
            ax.semilogx(T, x[:, i], color=colour, lw=1.8, label=f"$u_{i + 1}$ = {U[i]:g}")
            for end in (0.0, 1.0):
                if len(exact := T[x[:, i] == end]):
                    ax.semilogx(
                        [exact[0], exact[-1]], [end, end], color=colour, lw=6, alpha=0.35, solid_capstyle="butt"
                    )
        ax.set(title=name, xlabel="t", ylim=(-0.04, 1.04), xlim=(T[0], T[-1]))
        ax.minorticks_off()
        ax.grid(True)
    axes[0].set_ylabel("$X_t(u)$")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    style.save(figure, "regularizer_paths")


def gradients(draws: int = 600) -> None:
    u = torch.randn(draws, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    figure, axes = plt.subplots(1, 3, figsize=(10, 2.8), layout="constrained")
    for name, f in REGULARIZERS.items():
        soft, found = sst.SoftArgmax(picks, f), []
        for t in T[::5]:
            v = u.clone().requires_grad_()
            x = soft(v, t)
            rows = [torch.autograd.grad(x[:, i].sum(), v, retain_graph=True)[0] for i in range(5)]
            norm = torch.stack(rows).square().sum((0, 2)).sqrt()  # of each draw's Jacobian
            exact = (x == 0) | (x == 1)
            found.append([exact.double().mean(), norm.mean(), (norm < 1e-3).double().mean()])
        for ax, curve in zip(axes, torch.tensor(found).T, strict=True):
            ax.semilogx(T[::5], curve, "--" if "family" in name else "-", lw=1.8, label=name)
    zeros, size, dead = axes
    zeros.set(title="share of entries exactly 0 or 1", ylim=(-0.04, 1.04))
    size.set(title="size of the Jacobian, mean over draws", yscale="log", ylim=(5e-2, 5))
    dead.set(title="share of draws whose Jacobian is < 0.001", ylim=(-0.04, 1.04))
    for ax in axes:
        ax.grid(True)
        ax.set(xlim=(T[0], T[-1]), xlabel="t")
    figure.legend(*zeros.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    style.save(figure, "regularizer_gradients")


paths()
gradients()
