"""The declared hull as numbers.

canonical       what CVXPY makes of the constraints, once
compiled        a declared hull: its questions, answered from those numbers
unknown         the same questions to a set that is known by its argmax alone
linear          bounds and rows of a linear hull
violation       how far points are outside
presolve        implicit equalities
linear_oracle   argmax over the hull, by HiGHS and Clarabel
"""
