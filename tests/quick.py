"""What `make test` takes of tests that are long together: one in so many of their cases, the others are "slow".

`make slow`, and so CI, runs the rest. 0: all cases are slow. By file and test, without a class; from the durations that
``pytest --durations=0`` shows.
"""

ONE_IN = {
    "inside/test_failures.py": {"test_a_wrong_fast_path": 0},
    "inside/test_pairs.py": {
        "test_batch_sizes_do_not_recompile": 6,
        "test_compiled_cold": 12,
        "test_exported": 6,
        "test_no_host_read": 5,
        "test_shapes_without_numbers": 9,
        "test_temperatures_of_a_schedule_compile_once_more": 4,
    },
    "kernels/test_log_weights.py": {"test_log_partition_in_few_bits": 4},
    "kernels/test_matchings_inside.py": {"test_as_on_the_host": 5, "test_compiled_batches": 0, "test_masks": 2},
    "kernels/test_sinkhorn.py": {
        "test_against_alternating_steps": 4,
        "test_gradcheck_twice": 7,
        "test_optimal_at_every_scale": 4,
    },
    "kernels/test_subset_sums_up_to.py": {"test_by_fft_against_counting": 4},
    "kernels/test_subsets_inside.py": {"test_compiled_marginals": 3},
    "kernels/test_threshold_by_row.py": {"test_sizes_under_compilers_and_transforms": 3},
    "kernels/test_trees_inside.py": {"test_argmax_reads_nothing": 4},
    "learning/test_logistic_kl.py": {"test_value_and_derivatives_are_those_of_thirty_digits": 12},
    "native/test_interior_point.py": {"test_points_gradients_steps": 4},
    "native/test_threshold.py": {"test_the_same_answers": 4},
    "paths/interior_point/test_parameters_exactly.py": {"test_against_fifty_digits": 4},
    "paths/interior_point/test_path.py": {
        "test_gradient_is_the_slope_of_the_value": 9,
        "test_optimality_gap": 4,
        "test_optimality_gap_of_entropies": 4,
        "test_same_hull_three_ways": 4,
    },
    "paths/test_operator.py": {"test_compiled_cold": 3, "test_exported": 3},
    "test_absent.py": {"test_compiled": 0},
    "test_active_set.py": {"test_gradcheck_twice": 3},
    "test_checks_catch.py": {"test_fast_path": 5},
    "test_checks_planted.py": {"test_structure": 8},
    "test_copies.py": {"test_other_processes": 0, "test_spawned_workers": 0},
    "test_count_frequencies.py": {"test_marginals_at_every_scale": 4},
    "test_examples.py": {"test_ctrl_c_while_packages_are_imported": 12},
    "test_gap.py": {"test_of_exponential_families": 4},
    "test_gradient.py": {"test_gradcheck_twice": 3},
    "test_graph_layout.py": {"test_replays_are_the_same_run": 0, "test_seeds_side_by_side_are_those_alone": 0},
    "test_invariance.py": {"test_float32_at_any_scale": 4},
    "test_library_modes.py": {
        "test_import_with_a_default_device": 0,
        "test_modes_at_construction_and_at_calls_change_nothing": 4,
        "test_modes_change_no_fast_path": 4,
    },
    "test_lazy.py": {"test_solvers_print_nothing": 0},
    "test_listed.py": {"test_derivatives": 9},
    "test_logarithms.py": {
        "test_fast_functions_against_the_tableau": 4,
        "test_gap_of_logarithms": 4,
        "test_where_x_has_digits_logarithms_are_its_own": 4,
    },
    "test_masks.py": {
        "test_argmax_log_partition_and_marginals_against_enumeration": 4,
        "test_soft_argmax_is_optimal_among_what_is_left": 11,
    },
    "test_products.py": {"test_certified": 6, "test_equal_to_its_parts_bit_for_bit": 2},
    "test_rankings_and_matchings.py": {"test_padded_matchings_are_small_matchings": 9},
    "test_restricted.py": {"test_by_list_runs_where_the_host_is_not_asked": 0, "test_checks": 4},
    "test_soft_sorting.py": {"test_gradients": 4},
    "test_structures.py": {"test_contract": 11},
    "test_trees.py": {"test_sums_and_marginals_against_enumeration": 3},
    "test_units.py": {"test_rows_and_columns_in_any_unit": 4},
    "test_value.py": {"test_fast_paths_within_1e_9": 4},
}
