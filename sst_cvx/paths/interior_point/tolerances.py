"""Every tolerance of the path, in one place: its name, its value, and why. Tests name each of them.

Errors are relative to utilities that are centred and divided by their range, unless said otherwise; t is the
temperature in the same unit.
"""

from __future__ import annotations

from dataclasses import dataclass

# --- the hull in standard form ---
#: Rows of the largest system that is factorised densely: 2,500 take 50 MB and a second an element.
MOST_ROWS = 2500
#: By how much a row must be able to exceed its right side within the bounds, relative to 1 + |right side|, to count.
IMPLIED = 1e-12
#: Residual of "a combination of equalities is the sum of the event", from which the sum is not fixed.
FIXED_SUM = 1e-9
#: Newton steps towards the analytic center, and the relative step that ends them: any point inside is a start.
CENTERING_STEPS, CENTERED = 30, 1e-2
#: By how much bounds may cross, and rows without free columns be violated, at values of parameters; relative.
CROSSED = 1e-9
#: The same of equalities that depend on others: these are asked with a solution, which is less exact.
INCONSISTENT = 1e-8
#: Distance of bounds that coincide, relative: parameters leave such a column no room.
NO_ROOM = 1e-12
#: Numbers in the matrices of one chunk of the batch: 160 MB.
CHUNK = 2e7

# --- the interior-point solver ---
#: First products of multipliers and gaps.
FIRST_BARRIER = 0.3
#: Temperature to start entropies at: lower ones are approached, or Newton's steps are short.
FIRST_TEMPERATURE = 0.5
#: Of the barrier, times t, until the target temperature is reached: it must not run ahead of the temperature.
BARRIER_FLOOR = 0.05
#: The same, times the infeasibility, always: at a bound, infeasibility is hard to take out.
BARRIER_FLOOR_INFEASIBLE = 0.01
#: Least barrier: below are rounding errors.
LEAST_BARRIER = 1e-17
#: Second-order correction of the products of gaps and multipliers, over their mean, at most (Gondzio 1996): where the
#: predictor wants a thousand times what a gap allows, its square is no correction.
MOST_CORRECTION = 100.0
#: Fraction of the way to the boundary.
STEP = 0.995
#: Curvature of auxiliary columns in the Newton system. With too little of it, rows in which all columns are tiny are
#: lost in the elimination, which entropies (the second) notice; others need ever longer steps of auxiliary columns.
PROXIMAL, PROXIMAL_STEEP = 1e-9, 1e-3
#: Refinements of Newton steps with auxiliary columns, where the system is worst conditioned.
STEP_REFINEMENTS = 1
#: Curvature of pinned columns: they stay.
IMMOVABLE = 1e100
#: Distance that coordinates keep from a bound where phi' is infinite: from nearer, they take too long to come back.
NEAREST = 1e-16
#: Gap and a tenth of the infeasibility, over t, at which an element has arrived: of a quadratic f (the rest is one
#: linear solve); of others; of entropies with auxiliary columns, where active bounds are hardest to tell.
LOOSE, TIGHT, TIGHTER = 1e-8, 1e-10, 1e-12
#: Fraction of the iterations after which LOOSE is enough for all.
LATE = 0.6
#: Dual residual, over t, at which an element has arrived.
DUAL = 1e-6
#: No gap or dual residual has to be below this: rounding errors.
ROUNDING = 1e-13


@dataclass(frozen=True)
class Schedule:
    """How patient a run is: iterations, factor on the temperature, and infeasibility up to which it is lowered."""

    iterations: int
    cooling: float
    gate: float


#: For all; and for the few entropic problems that it gives up.
BRISK, PATIENT = Schedule(50, 0.4, 0.1), (Schedule(150, 0.7, 1e-3), Schedule(300, 0.85, 1e-4))

# --- the polish on the active set ---
#: Ratio of multiplier and gap of an active bound: one fixed too few costs one more solve, one too many several.
ACTIVE = 1e4
#: The same, where entropies with auxiliary columns show that fewer are active.
FEWER = (1e6, 1e8, 1e10)
#: Multipliers below this may turn out to be zero.
WEAK = 1e-2
#: Multiplier on the wrong side that frees a column; over t, one of auxiliary columns that asks for fewer active bounds.
WRONG, WRONG_AUXILIARY = 1e-11, 0.05
#: How far outside a bound is a reason to change the active set; and how far an answer may be, for rounding errors.
OUTSIDE, ACCEPTED_OUTSIDE = 1e-12, 1e-10
#: Newton steps with one active set; and where these do not settle.
ROUNDS, MANY_ROUNDS = 5, 40
#: Changes of the active set.
CHANGES = 8
#: Error, in units of x, at which Newton's method and refinement end; and that of an answer.
EXACT, ACCEPTED = 1e-12, 3e-10
#: How far an answer may be from the interior-point solution, relative: another active set is another problem.
NEARBY = 1e-3

# --- the KKT system of the active set ---
#: Curvature of auxiliary columns, times t, which refinement takes out again.
PROXIMAL_ACTIVE = 1e-4
#: Inverse curvature of free slacks, which takes their rows out.
FREE_SLACK = 1e20
#: Refinements of a derivative, and of a Newton step.
REFINEMENTS, NEWTON_REFINEMENTS = 40, 8
#: Error of a refined derivative from which a least-squares solution takes its place; the rank of that, relative.
RESCUED, RANK = 1e-8, 1e-13
#: Unit of errors of a derivative, of the undamped one; and the error that is refused.
DERIVATIVE_UNIT, DERIVATIVE = 1e-3, 1e-7

#: Residual of right sides that free columns cannot take up, relative: then bounds are opened by so much, relative.
REACHED, REOPENED = 1e-6, (1e-6, 1e-4)

# --- linear algebra ---
#: Relative ridge under a dense Cholesky factor; where it fails, GROWTH times as much, up to the largest.
RIDGE, RIDGE_GROWTH, LARGEST_RIDGE = 1e-14, 100.0, 1e-3
#: Largest reciprocal of an inverse curvature: of columns that cannot move.
LARGEST_RECIPROCAL = 1e100
#: Under the diagonal of the Schur complement of an active set, over t: dense, and sparse (which does not pivot).
FLOOR, FLOOR_SPARSE = 1e-14, 1e-10
#: The same of sparse interior-point systems, and the inverse curvature that auxiliary columns have there at most.
FLOOR_INTERIOR, LARGEST_INVERSE_CURVATURE = 1e-11, 1e3
#: How many times more rows than columns make the condensed system, of the size of the columns, the faster one.
CONDENSED = 1.3
#: Rows from which sparse elimination is faster than the dense Schur complement, with auxiliary columns.
SPARSE_ROWS = 60
#: Part of M's entries that are not 0 from which it is not.
SPARSE_ENTRIES = 0.1
#: How many times more multiplications a dense Schur complement may take than products of the entries of one column.
SPARSE_PRODUCT = 20
#: Compiled loops: multiplications of one factorisation, and of those of a batch, up to which they were faster than
#: tensors; and rows up to which a hull is looked at.
LOOPS, LOOPS_OF_BATCH, LOOPS_ROWS = 4e4, 6e5, 300
#: Rows with at most so many neighbours are eliminated one by one, in sets of at least so many.
DEGREE, FEWEST = 6, 4

# --- beyond the path ---
#: Temperature over size of utilities below which the layer's answers have too few digits to take its place.
LAYER_RESOLUTION = 1e-4
#: Frank-Wolfe gap of the layer's answers, relative to 1 + the largest utility, up to which these are taken.
LAYER_GAP = 1e-3

# --- relative accuracy ---
#: Temperatures of columns without entropy, over the coldest of the event: by factors of ten to one that moves nothing.
LEVELS = tuple(10.0**-k for k in range(12))
#: The same for elements that these leave unsettled.
PATIENT_LEVELS = (
    tuple(10.0 ** (-k / 2) for k in range(-2, 22)) + LEVELS[-1:],
    tuple(10.0 ** (-k / 5) for k in range(-10, 55)) + LEVELS[-1:],
)
#: Eliminations at one level.
ELIMINATIONS = 6
#: Pivot, relative to its column, below which that depends on others; and what elimination leaves of a zero.
DEPENDENT, ELIMINATED = 1e-7, 1e-12
#: A right side that is zero but for rounding, relative to the terms it is a difference of.
CANCELLED = 1e-13
#: Newton steps, and halvings of one.
RELATIVE_STEPS, HALVINGS = 30, 10
#: Last change of a slope of the event, relative to 1 + its size.
RELATIVE = 1e-10
#: What residuals of rows of other columns count, beside those of the event.
RELATIVE_OTHERS = 1e-4
#: Logarithm of a term that no right answer has.
LARGEST_TERM = 60.0
#: Logarithm by which terms are too small to count.
INSIGNIFICANT = 40.0
#: Logarithms by which a term may be larger than that of its basic column, in the end and meanwhile.
FITS, FITS_STILL = 5.0, 20.0
#: Largest exponent of a scale.
EXPONENT = 700.0
#: Distance to the interior point's solution that says that one of the two is wrong.
APART = 1e-6
#: Distance to the ends of the domain from which to start.
CLOSE = 1e-6
#: Numbers in a tableau beyond which an elimination takes minutes.
LARGEST_TABLEAU = 2_000_000
