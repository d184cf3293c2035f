"""Pictures: plain matplotlib, axes in, axes out.

Each function draws on the axes that it is given as `ax`, or on a figure of its own, and returns the
axes: ``plotting.loss_curves(history).figure.savefig("loss.png")``. What tells things apart by
colour does so by a kind of line, a marker or a place as well.
"""

from gpubackprop.plotting.boundary import decision_boundary
from gpubackprop.plotting.curves import comparison, loss_curves
from gpubackprop.plotting.drawing import COLORS, LINES, figure
from gpubackprop.plotting.images import first_layer_weights
from gpubackprop.plotting.layers import delta_histograms, weight_histograms
from gpubackprop.plotting.network import draw_network
from gpubackprop.plotting.speed import throughput

__all__ = [
    "COLORS",
    "LINES",
    "comparison",
    "decision_boundary",
    "delta_histograms",
    "draw_network",
    "figure",
    "first_layer_weights",
    "loss_curves",
    "throughput",
    "weight_histograms",
]
