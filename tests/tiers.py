"""Which cases of a long table run in the fast tier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def fast(cases: Iterable[Any], *chosen: Any, several: bool = False) -> list[Any]:
    """All cases, those not chosen marked slow: `make test` runs the chosen ones, `make verify` all.

    With ``several`` a case is a tuple of the values of several parameters.
    """
    table = list(cases)
    unknown = [case for case in chosen if case not in table]
    assert not unknown, unknown
    return [case if case in chosen else _slow(case, several) for case in table]


def _slow(case: Any, several: bool) -> Any:
    return pytest.param(*(case if several else (case,)), marks=pytest.mark.slow)


SLOW = {
    "test_amortised.py::test_iwelbo_of_a_mismatched_guide_rises_to_the_evidence",
    "test_cli.py::test_installed_command_in_double_precision",
    "test_cli.py::test_program_guide_from_the_file",
    "test_cli.py::test_pyro_model_is_recognised",
    "test_constrained.py::test_no_particle_is_lost_at_the_boundary_in_single_precision[CoinSVMD]",
    "test_distributions.py::test_value_and_gradient[GammaGaussianHMM]",
    "test_distributions.py::test_value_and_gradient[GaussianMRF]",
    "test_ensembles.py::test_a_change_of_coordinates_changes_nothing[<lambda>0]",
    "test_ensembles.py::test_a_cloud_that_starts_far_too_wide_does_not_explode",
    "test_ensembles.py::test_a_forward_map_is_a_density_to_every_other_sampler",
    "test_ensembles.py::test_black_boxes_will_do[<lambda>1]",
    "test_ensembles.py::test_consensus_finds_the_best_of_many_modes",
    "test_ensembles.py::test_consensus_sampling_is_exact_for_gaussians_of_any_scale",
    "test_ensembles.py::test_correction_is_needed_and_enough_with_few_particles",
    "test_ensembles.py::test_inversion_reaches_the_posterior_and_then_the_fit",
    "test_fit_truth.py::test_a_scale_that_underflows_is_explained",
    "test_fit_truth.py::test_conjugate_normal_with_defaults[8.0-10]",
    "test_fit_truth.py::test_conjugate_regression_in_awkward_units[None]",
    "test_fit_truth.py::test_learning_rate_free_optimisers[prodigy]",
    "test_fit_truth.py::test_mean_field_finds_its_own_optimum",
    "test_fit_truth.py::test_modes_far_from_the_origin_are_seen[modes1]",
    "test_fit_truth.py::test_program_guide_reaches_the_posterior",
    "test_flows.py::test_birth_and_death_move_mass_between_modes",
    "test_flows.py::test_finite_far_out_in_float32[RealNVP]",
    "test_flows.py::test_fit_trains_a_flow",
    "test_flows.py::test_mutants_of_the_recursion_are_caught[without_log_det]",
    "test_flows.py::test_mutants_of_the_recursion_are_caught[without_network]",
    "test_flows.py::test_path_gradients_vanish_at_the_target[Radial]",
    "test_flows.py::test_path_gradients_vanish_at_the_target[RealNVP]",
    "test_flows.py::test_round_trip_and_log_determinant[SplineFlow-5]",
    "test_flows.py::test_single_pass_is_two_pass[IAF]",
    "test_flows.py::test_single_pass_is_two_pass[Planar]",
    "test_flows.py::test_single_pass_is_two_pass[Radial]",
    "test_flows.py::test_single_pass_is_two_pass_in_float32[RealNVP]",
    "test_gradients.py::test_anchor_moves_once_per_period_for_all_chains_at_once",
    "test_gradients.py::test_centre_is_the_mode_a_position_or_a_posterior",
    "test_gradients.py::test_mean_of_minibatch_gradients_is_the_full_gradient[ControlVariate-numpyro]",
    "test_gradients.py::test_mean_of_minibatch_gradients_is_the_full_gradient[Minibatch-pyro]",
    "test_guides.py::test_gradients_are_finite_and_pickles_round_trip[SplineFlow]",
    "test_handlers.py::test_normalising_flow_with_learnable_weights",
    "test_hmc.py::test_adding_chains_changes_none",
    "test_joint.py::test_entropy_mcmc_draws_from_the_smoothed_posterior[smoothed-0.5]",
    "test_joint.py::test_structured_sampling_reaches_the_block_independent_optimum[None]",
    "test_kernels.py::test_cloud_has_the_moments_of_a_correlated_gaussian[BirthDeath]",
    "test_kernels.py::test_cloud_has_the_moments_of_a_correlated_gaussian[CoinKSDD]",
    "test_kernels.py::test_cloud_has_the_moments_of_a_correlated_gaussian[CoinMirroredSVGD]",
    "test_kernels.py::test_cloud_has_the_moments_of_a_correlated_gaussian[CoinSVGD]",
    "test_kernels.py::test_cloud_has_the_moments_of_a_correlated_gaussian[CoinSVMD]",
    "test_kernels.py::test_same_key_same_bits_and_resumed_bit_for_bit[CoinSVGD]",
    "test_kernels.py::test_same_key_same_bits_and_resumed_bit_for_bit[SGLD]",
    "test_kernels.py::test_structure_and_dtype_never_change[True-SVGD]",
    "test_kernels.py::test_structure_and_dtype_never_change[True-StructuredSGLD]",
    "test_kernels.py::test_what_is_not_finite_is_isolated_and_named[CoinSVGD]",
    "test_kernels_of_pairs.py::test_random_batches_are_unbiased[0]",
    "test_laboratory.py::test_fit_chooses_and_says_why",
    "test_laboratory_guides.py::test_a_flow_is_measured_where_a_fit_would_start_it",
    "test_layers.py::test_activations",
    "test_layers.py::test_layer[TransformerDecoderLayer]",
    "test_marginal_plates.py::test_normalize_in_a_plate_is_the_importance_weighted_bound_per_datum[2]",
    "test_mirror.py::test_moments_of_a_program_with_every_kind_of_support[CoinSVMD]",
    "test_numpyro.py::test_enumeration_across_plates_is_brute_force",
    "test_numpyro.py::test_every_kind_of_site[corr_cholesky]",
    "test_numpyro.py::test_every_kind_of_site[corr_matrix]",
    "test_numpyro.py::test_every_kind_of_site[positive_definite]",
    "test_objectives.py::test_derivatives_agree_with_automatic_ones[True]",
    "test_operations.py::test_operations[linear_algebra-float32]",
    "test_operations.py::test_operations[special-float32]",
    "test_pairs.py::test_force_equals_brute_force[float32-2e-05-IMQ-50]",
    "test_pairs.py::test_force_equals_brute_force[float32-2e-05-Laplace-50]",
    "test_pairs.py::test_median_of_some_particles_sees_all_parts_of_a_sorted_cloud",
    "test_pairs.py::test_reductions_and_their_derivatives_equal_dense_ones[4096-_gauss-sum]",
    "test_pairs.py::test_reductions_and_their_derivatives_equal_dense_ones[4096-_logits-logsumexp]",
    "test_pairs.py::test_reductions_and_their_derivatives_equal_dense_ones[64-_logits-logsumexp]",
    "test_price.py::test_nothing_random_is_left_on_a_quadratic[LowRank]",
    "test_price.py::test_unbiased_on_a_curved_target[Whitened]",
    "test_pyro.py::test_compiled_values_and_labels[gp_regr]",
    "test_pyro.py::test_log_density_and_gradient_equal_the_numpyro_program[eight_schools_noncentered]",
    "test_pyro.py::test_log_density_and_gradient_equal_the_numpyro_program[gauss_mix]",
    "test_pyro.py::test_log_density_and_gradient_equal_the_numpyro_program[german_credit]",
    "test_pyro.py::test_log_density_and_gradient_equal_the_numpyro_program[kidiq]",
    "test_pyro_results.py::test_predict_log_likelihood_and_file",
    "test_refusals.py::test_callback_backend",
    "test_relax_programs.py::test_unbiased_in_a_program",
    "test_resampling.py::test_equal_weights_keep_everyone_where_the_scheme_can[residual]",
    "test_resampling.py::test_equal_weights_keep_everyone_where_the_scheme_can[systematic]",
    "test_resampling.py::test_largest_power_hits_the_effective_sample_size",
    "test_resume.py::test_k_steps_then_a_new_process[program]",
    "test_resume.py::test_kill_at_a_random_moment[sample]",
    "test_resume.py::test_same_bits_with_progress_checkpoints_and_any_chunk[fit]",
    "test_ring.py::test_ring_of_four_devices_equals_one",
    "test_sample_distances.py::test_ksd_equals_brute_force[kernel1]",
    "test_simulation.py::test_pickled_program_runs_without_torch",
    "test_simulation.py::test_single_precision",
    "test_site_gradients.py::test_unbiased[score-ELBO]",
    "test_site_gradients.py::test_unbiased[score-IWELBO]",
    "test_site_mutants.py::test_mutant_is_seen[plated: missing 1/K]",
    "test_sites.py::test_moments[Beta/MeasureValued]",
    "test_sites.py::test_moments[Beta/Score]",
    "test_sites.py::test_moments[Dirichlet/MeasureValued]",
    "test_sites.py::test_moments[Gamma/MeasureValued]",
    "test_sites.py::test_mutants_are_caught[Beta/Score-factor]",
    "test_sites_more.py::test_mutants_are_caught[Mixture/Implicit-mutant0]",
    "test_sites_more.py::test_relaxed_sites_in_plates_and_events",
    "test_smc.py::test_clouds_do_not_wait_for_each_other",
    "test_smc.py::test_evidence_is_unbiased[multinomial]",
    "test_smc.py::test_scale_follows_acceptance",
    "test_smc.py::test_too_few_steps_are_reported",
    "test_stationary.py::test_bias_is_of_first_order_for_euler_and_of_second_for_baoab",
    "test_stationary.py::test_preconditioner_that_follows_the_position[True-1.0]",
    "test_stationary.py::test_stationary_variance_is_that_of_the_formula[SGLD]",
    "test_stationary.py::test_thermostat_recovers_noise_that_it_was_not_told",
    "test_stein.py::test_score_at_published_draws[gp_regr]",
    "test_stein.py::test_score_at_published_draws[lotka_volterra]",
    "test_storage.py::test_model_of_a_script_travels_with_the_file",
    "test_storage.py::test_new_process",
    "test_twins.py::test_enumeration[False]",
    "test_twins.py::test_markov_chain_is_enumerated",
    "test_twins.py::test_nested_plates_and_minibatches[4]",
    "test_twins.py::test_support[corr_cholesky]",
    "test_work.py::test_an_expensive_target_gets_fewer_draws_in_its_checks",
    "test_zoo.py::test_float32_target[german_credit]",
    "test_zoo.py::test_float32_target[hmm]",
    "test_zoo.py::test_float32_target[pump]",
}
"""Tests of over 6 CPU-seconds whose mechanism cheaper ones guard too: `make verify` runs them."""


def mark_slow(items: Iterable[pytest.Item]) -> None:
    """Mark the tests of `SLOW`."""
    for item in items:
        if f"{item.path.name}::{item.name}" in SLOW:
            item.add_marker(pytest.mark.slow)
