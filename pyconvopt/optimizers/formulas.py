"""Every optimiser by name: its formula, its defaults, its source.

w are weights, g = ∇f(w) their gradient, t the number of the step from 1 on, λ the `weight_decay`. Where
no λ stands in a formula, λ·w is added to g beforehand. Products and roots are entry by entry; what is
remembered starts at 0, and a hat corrects for that: m̂ = m / (1 - β₁ᵗ), v̂ = v / (1 - β₂ᵗ), where

    m ← β₁·m + (1 - β₁)·g        v ← β₂·v + (1 - β₂)·g²

`sgd`: gradient descent with momentum.

    b ← momentum·b + g        w ← w - lr·b

Defaults: lr=0.01, momentum=0, weight_decay=0. Source: Robbins and Monro 1951; Polyak 1964.

`nesterov`: the same with the gradient looked up ahead.

    b ← momentum·b + g        w ← w - lr·(g + momentum·b)

Defaults: lr=0.01, momentum=0.9, weight_decay=0. Source: Nesterov 1983; Sutskever et al. 2013.

`adam`: momentum, each entry divided by its gradient's size.

    w ← w - lr·m̂ / (√v̂ + eps)

Defaults: lr=0.001, betas=(0.9, 0.999), eps=1e-7, weight_decay=0. Source: Kingma and Ba 2015,
arXiv:1412.6980.

`adamw`: Adam with the decay apart from the gradient.

    w ← (1 - lr·λ)·w - lr·m̂ / (√v̂ + eps)

Defaults: lr=0.001, betas=(0.9, 0.999), eps=1e-7, weight_decay=0.004. Source: Loshchilov and Hutter 2019,
arXiv:1711.05101.

`rmsprop`: each entry divided by the root of its gradient's mean square.

    v ← alpha·v + (1 - alpha)·g²        w ← w - lr·g / (√v + eps)

Defaults: lr=0.001, alpha=0.9, eps=1e-7, momentum=0. Source: Tieleman and Hinton 2012, lecture 6.5 of
"Neural Networks for Machine Learning".

`adagrad`: each entry divided by the root of all its squares so far.

    s ← s + g²        w ← w - lr·g / (√s + eps),  s from initial_accumulator_value

Defaults: lr=0.001, initial_accumulator_value=0.1, eps=1e-7, lr_decay=0. Source: Duchi, Hazan and
Singer 2011, "Adaptive Subgradient Methods".

`adadelta`: RMSprop with steps in the weights' own unit.

    v ← rho·v + (1 - rho)·g²        d = √(u + eps) / √(v + eps)·g
    u ← rho·u + (1 - rho)·d²        w ← w - lr·d

Defaults: lr=0.001, rho=0.95, eps=1e-7. Source: Zeiler 2012, arXiv:1212.5701.

`adamax`: Adam with the largest gradient in place of the mean square.

    u ← max(β₂·u, |g| + eps)        w ← w - lr·m̂ / u

Defaults: lr=0.001, betas=(0.9, 0.999), eps=1e-7. Source: Kingma and Ba 2015, section 7.1.

`nadam`: Adam with Nesterov's momentum.

    μₜ = β₁·(1 - ½·0.96^(t·momentum_decay)),  Mₜ = μ₁·…·μₜ
    w ← w - lr·(μₜ₊₁·m / (1 - Mₜ₊₁) + (1 - μₜ)·g / (1 - Mₜ)) / (√v̂ + eps)

Defaults: lr=0.001, betas=(0.9, 0.999), eps=1e-7, momentum_decay=0.004. Source: Dozat 2016,
"Incorporating Nesterov Momentum into Adam".

`radam`: Adam whose first steps, where v is not yet to be trusted, are momentum alone.

    ρ = 2 / (1 - β₂) - 1,  ρₜ = ρ - 2·t·β₂ᵗ / (1 - β₂ᵗ)
    w ← w - lr·r·m̂·√(1 - β₂ᵗ) / (√v + eps)   if ρₜ > 5,  r² = (ρₜ - 4)(ρₜ - 2)·ρ / ((ρ - 4)(ρ - 2)·ρₜ)
    w ← w - lr·m̂                             else

Defaults: lr=0.001, betas=(0.9, 0.999), eps=1e-7. Source: Liu et al. 2020, arXiv:1908.03265.

`muon`: momentum made orthogonal, for matrices and filters; AdamW for the rest. See `Muon`.

    B ← momentum·B + (1 - momentum)·G        U = momentum·B + (1 - momentum)·G
    w ← (1 - lr·λ)·w - lr·adjusted·O,  O the orthogonal factor of U

Defaults: lr=0.001, weight_decay=0.1, momentum=0.95, ns_steps=5. Source: Jordan et al. 2024, "Muon".

`lion`: the sign of a momentum; every entry moves by lr.

    w ← (1 - lr·λ)·w - lr·sign(β₁·m + (1 - β₁)·g)        m ← β₂·m + (1 - β₂)·g

Defaults: lr=0.001, betas=(0.9, 0.99), weight_decay=0. Source: Chen et al. 2023, arXiv:2302.06675.

`lamb`: Adam whose step is, tensor by tensor, as long as the weights.

    r = m / (√v + eps) + λ·w        w ← w - lr·min(‖w‖, 10) / (‖r‖ + eps)·r

The factor is 1 where a norm is 0; m and v are not corrected for their start. Defaults: lr=0.001,
betas=(0.9, 0.999), eps=1e-6, weight_decay=0. Source: You et al. 2020, arXiv:1904.00962.

`lars`: momentum whose gradients are scaled, tensor by tensor, to the weights' length.

    b ← momentum·b + q·(g + λ·w),  q = trust_coefficient·‖w‖ / (‖g‖ + λ·‖w‖)        w ← w - lr·b

Vectors have q = 1 and no decay. Defaults: lr=0.001, momentum=0.9, trust_coefficient=0.001,
weight_decay=0. Source: You, Gitman and Ginsburg 2017, arXiv:1708.03888.

`soap`: Adam in the eigenbasis of Shampoo's matrices L and R.

    L ← shampoo_beta·L + (1 - shampoo_beta)·G·Gᵀ, R of Gᵀ·G;  Q their eigenvectors, now and then anew
    w ← w - Q(step of Adam for the gradient Qᵀ(G)), then w ← (1 - lr·λ)·w

shampoo_beta is β₂ where it is not given; the first step only fills L and R. Defaults: lr=0.003,
betas=(0.95, 0.95), eps=1e-8, weight_decay=0.01, precondition_frequency=10. Source: Vyas et al. 2024,
arXiv:2409.11321.

`shampoo`: one matrix for each of a tensor's k axes.

    Hᵢ ← Hᵢ + Gᵢ·Gᵢᵀ,  Gᵢ the gradient with axis i first        w ← w - lr·G by each Hᵢ^(-1/(2k))

Hᵢ begins as matrix_eps times the identity. Defaults: lr=0.001, momentum=0, weight_decay=0,
matrix_eps=1e-6, preconditioning_compute_steps=1. Source: Gupta, Koren and Singer 2018,
arXiv:1802.09568.

`prodigy`: Adam with the rate d·lr, d an estimate of how far the weights are from the best ones.

    w ← w - d·lr·m / (√v + d·eps),  m and v of d·g
    d ← max(d, d_coef·a / ‖s‖₁),  a ← √β₂·a + d²·lr / d0·⟨g, w₀ - w⟩,  s ← √β₂·s + d²·lr / d0·g

w₀ are the first weights; lr is a factor; λ shrinks w by 1 - d·lr·λ beside the step. Defaults: lr=1,
betas=(0.9, 0.999), d0=1e-6, d_coef=1, eps=1e-8, weight_decay=0. Source: Mishchenko and Defazio 2024,
arXiv:2306.06101.

`dadapt_sgd`: SGD with such an estimate d.

    c = d·lr / ‖g₁‖,  g₁ the first gradient        a ← a + c·⟨g, s⟩,  then s ← s + c·g
    d ← max(d, 2·a / ‖s‖)        w ← momentum·w + (1 - momentum)·(w₀ - s)

Defaults: lr=1, momentum=0.9, d0=1e-6, weight_decay=0. Source: Defazio and Mishchenko 2023,
arXiv:2301.07733.

`dadapt_adam`: Adam with such an estimate d; c = d·lr, and γ = √β₂.

    a ← γ·a + (1 - γ)·c·⟨g, s / (√v + eps)⟩,  then s ← γ·s + (1 - γ)·c·g and m, v as Adam, m of c·g
    d ← max(d, a / ((1 - γ)·‖s‖₁))        w ← w - m / (√v + eps)

Defaults: lr=1, betas=(0.9, 0.999), d0=1e-6, eps=1e-8, weight_decay=0. Source: as `dadapt_sgd`.

`schedule_free_sgd`: SGD on z, evaluated at its running mean x, with gradients between them, at w.

    z ← z - lr·g        x ← (1 - cₜ)·x + cₜ·z,  cₜ = lr² / Σ lr²        w = (1 - momentum)·z + momentum·x

`averaging.ScheduleFree` evaluates at x. Defaults: lr=1, momentum=0.9, weight_decay=0, warmup_steps=0.
Source: Defazio et al. 2024, arXiv:2405.15682.

`schedule_free_adamw`: the same with g / (√v̂ + eps) in place of g, then λ·w, and β₁ for the momentum.

    z ← z - lr·(g / (√v̂ + eps) + λ·w)        x and w as before

Defaults: lr=0.0025, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, warmup_steps=0. Source: as
`schedule_free_sgd`.

`sam`: the inner optimiser's step with the gradient at the worst point near w. See `SAM`.

    g = ∇f(w + rho·∇f(w) / ‖∇f(w)‖)

Defaults: base='sgd', rho=0.05, every=1. Source: Foret et al. 2021, arXiv:2010.01412.

`lookahead`: slow weights that follow the inner optimiser's every k steps. See `Lookahead`.

    slow ← slow + alpha·(w - slow)        w ← slow

Defaults: base='sgd', k=5, alpha=0.5. Source: Zhang, Lucas, Hinton and Ba 2019, arXiv:1907.08610.

`sgd_hd`: SGD whose rate goes down its own gradient. See `HypergradientDescent`.

    lr ← lr + hypergrad_lr·⟨g, the step before / lr⟩        then SGD's step

Defaults: lr=0.001, hypergrad_lr=0.001. Source: Baydin et al. 2018, arXiv:1703.04782.

`adam_hd`: Adam in the same way; the step before / lr is m̂ / (√v̂ + eps).

    lr ← lr + hypergrad_lr·⟨g, m̂ / (√v̂ + eps)⟩        then Adam's step

Defaults: lr=0.001, hypergrad_lr=1e-7. Source: as `sgd_hd`.
"""
