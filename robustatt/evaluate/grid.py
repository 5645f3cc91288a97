"""How a grid of radii is attacked without paying for every radius.

Balls are nested: an image that breaks an example at eps breaks it at every larger radius, and what holds at eps
under an attack is not expected to fall to it at a smaller one. So for each example only the radii around the one
where it breaks are attacked, at full strength where it holds. Every row is still backed by a real image inside its
radius, judged in a forward pass of its own: above the threshold the image that broke it, below it the failed
perturbation scaled into the ball. A failed perturbation is also scaled out to the next radius: if that breaks the
example, no run is needed there.
"""

from robustatt.evaluate.batch import Ledger, Target, map_columns
from robustatt.evaluate.bracket import Bracket
from robustatt.evaluate.single_run import along_rays, whole_curve
from robustatt.evaluate.threshold_search import GridSearch

__all__ = ["Bracket", "GridSearch", "Ledger", "Target", "along_rays", "map_columns", "whole_curve"]
