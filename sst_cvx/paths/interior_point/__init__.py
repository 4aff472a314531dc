"""Any linear hull with any separable regularizer: one batched solve, polished, differentiated implicitly.

path            the protocol: what is refused, guarded, handed over to the layer
polytope        the walk: form, solve, polish, derivative
standard_form   the hull as { w : M w = r, lower <= w <= upper };   center: a point inside
sides           r and the bounds, at values of the hull's parameters
model           form and regularizer on one device;   barriers: bounds with a barrier
varying         M as a function of parameters that multiply variables; batched: linear algebra with an M of each element
problem         what goes from step to step
interior        the interior-point solver
polish          Newton's method on the active set
kkt             the linear system of an active set;   derivative: the implicit function theorem
closing         its one-sided values where bounds close
linear_algebra  what these ask of Newton systems: dense, or sparse by a plan of elimination;   matrix
tolerances      all of them, and why
"""
