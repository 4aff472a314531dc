"""Any linear hull with any separable regularizer: one batched solve, polished, differentiated implicitly."""
