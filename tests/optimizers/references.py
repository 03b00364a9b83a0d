"""The formulas of the papers in float64: each takes weights and steps, and changes the weights.

`gradient(step, index, w)` is `problem.gradient`; settings are those the tests give the optimiser.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.optimizers.problem import gradient


def gradients(step: int, weights: list[Tensor]) -> list[Tensor]:
    return [gradient(step, index, w) for index, w in enumerate(weights)]


def zeros(weights: list[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(w) for w in weights]


def lion(weights, steps, lr, betas, weight_decay):
    momenta = zeros(weights)
    for step in steps:
        for w, m, g in zip(weights, momenta, gradients(step, weights), strict=True):
            direction = torch.sign(betas[0] * m + (1 - betas[0]) * g)
            w -= lr * (direction + weight_decay * w)
            m += (1 - betas[1]) * (g - m)


def lamb(weights, steps, lr, weight_decay, betas=(0.9, 0.999), eps=1e-6):
    first, second = zeros(weights), zeros(weights)
    for step in steps:
        for w, m, v, g in zip(weights, first, second, gradients(step, weights), strict=True):
            m += (1 - betas[0]) * (g - m)
            v += (1 - betas[1]) * (g * g - v)
            change = m / (v.sqrt() + eps) + weight_decay * w
            w -= lr * min(w.norm(), 10.0) / (change.norm() + eps) * change


def lars(weights, steps, lr, weight_decay, momentum=0.9, trust=1e-3):
    velocities = zeros(weights)
    for step in steps:
        for w, v, g in zip(weights, velocities, gradients(step, weights), strict=True):
            if w.dim() > 1:
                ratio = trust * w.norm() / (g.norm() + weight_decay * w.norm())
                g = ratio * (g + weight_decay * w)
            v *= momentum
            v += g
            w -= lr * v


def schedule_free_sgd(weights, steps, lr, momentum=0.9):
    """x, y, z as in Defazio et al. 2024: trained at y; returns the average x."""
    z, x = [w.clone() for w in weights], [w.clone() for w in weights]
    for number, step in enumerate(steps, 1):
        for index, g in enumerate(gradients(step, weights)):
            z[index] -= lr * g
            x[index] += (z[index] - x[index]) / number
            weights[index].copy_((1 - momentum) * z[index] + momentum * x[index])
    return x


def schedule_free_adamw(weights, steps, lr, weight_decay, betas=(0.9, 0.999), eps=1e-8):
    z, x, second = [w.clone() for w in weights], [w.clone() for w in weights], zeros(weights)
    for number, step in enumerate(steps, 1):
        for index, g in enumerate(gradients(step, weights)):
            second[index] += (1 - betas[1]) * (g * g - second[index])
            spread = (second[index] / (1 - betas[1] ** number)).sqrt() + eps
            z[index] -= lr * (g / spread + weight_decay * weights[index])
            x[index] += (z[index] - x[index]) / number
            weights[index].copy_((1 - betas[0]) * z[index] + betas[0] * x[index])
    return x


def prodigy(weights, steps, d0, betas=(0.9, 0.999), eps=1e-8):
    """Mishchenko and Defazio 2023, algorithm 4."""
    begin, s = [w.clone() for w in weights], zeros(weights)
    first, second = zeros(weights), zeros(weights)
    d, numerator, root = d0, 0.0, math.sqrt(betas[1])
    for step in steps:
        numerator *= root
        found = gradients(step, weights)
        for w, w0, g in zip(weights, begin, found, strict=True):
            numerator += d / d0 * d * float((g * (w0 - w)).sum())
        for m, v, s_i, g in zip(first, second, s, found, strict=True):
            m.mul_(betas[0]).add_(g, alpha=(1 - betas[0]) * d)
            v.mul_(betas[1]).addcmul_(g, g, value=(1 - betas[1]) * d * d)
            s_i.mul_(root).add_(g, alpha=d / d0 * d)
        estimate = numerator / sum(float(s_i.abs().sum()) for s_i in s)
        rate, d = d, max(d, estimate)
        for w, m, v in zip(weights, first, second, strict=True):
            w -= rate * m / (v.sqrt() + d * eps)


def dadapt_sgd(weights, steps, d0, momentum=0.9):
    """Defazio and Mishchenko 2023, the SGD variant with momentum."""
    begin, s = [w.clone() for w in weights], zeros(weights)
    d, numerator = d0, 0.0
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients(steps[0], weights)))
    for step in steps:
        rate = d / norm
        for s_i, g in zip(s, gradients(step, weights), strict=True):
            numerator += rate * float((g * s_i).sum())
            s_i += rate * g
        d = max(d, 2 * numerator / math.sqrt(sum(float(s_i.square().sum()) for s_i in s)))
        for w, w0, s_i in zip(weights, begin, s, strict=True):
            w += (1 - momentum) * (w0 - s_i - w)


def dadapt_adam(weights, steps, d0, betas=(0.9, 0.999), eps=1e-8):
    first, second, s = zeros(weights), zeros(weights), zeros(weights)
    d, weighted, root = d0, 0.0, math.sqrt(betas[1])
    for step in steps:
        rate, product = d, 0.0
        for m, v, s_i, g in zip(first, second, s, gradients(step, weights), strict=True):
            product += rate * float((g * s_i / (v.sqrt() + eps)).sum())
            m.mul_(betas[0]).add_(g, alpha=(1 - betas[0]) * rate)
            v.mul_(betas[1]).addcmul_(g, g, value=1 - betas[1])
            s_i.mul_(root).add_(g, alpha=(1 - root) * rate)
        weighted = root * weighted + (1 - root) * product
        d = max(d, weighted / ((1 - root) * sum(float(s_i.abs().sum()) for s_i in s)))
        for w, m, v in zip(weights, first, second, strict=True):
            w -= m / (v.sqrt() + eps)


def along(tensor: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """The product of a tensor with a matrix along one axis: T'…j… = Σᵢ matrix_ij T…i…."""
    return torch.tensordot(tensor, matrix, ([axis], [0])).movedim(-1, axis)


def outer(tensor: Tensor, axis: int) -> Tensor:
    """G·Gᵀ of the matrix that has `axis` as its rows."""
    rows = tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)
    return rows @ rows.T


def inverse_root(matrix: Tensor, power: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values ** (-1 / power)) @ vectors.T


def shampoo(weights, steps, lr, eps=1e-6):
    """Gupta et al. 2018: one preconditioner an axis, each to the power −1/(2·axes)."""
    preconditioners = [[eps * torch.eye(n, dtype=w.dtype) for n in w.shape] for w in weights]
    for step in steps:
        for w, matrices, g in zip(weights, preconditioners, gradients(step, weights), strict=True):
            change = g
            for axis, matrix in enumerate(matrices):
                matrix += outer(g, axis)
                change = along(change, axis, inverse_root(matrix, 2 * w.dim()))
            w -= lr * change


def soap(weights, steps, lr, weight_decay, beta=0.95, eps=1e-8, frequency=10):
    """Vyas et al. 2024: Adam in the eigenbasis of Shampoo's matrices; vectors by plain Adam.

    The first step only measures; the bases follow every `frequency` steps by one QR iteration.
    """
    first, second = zeros(weights), zeros(weights)
    matrices, bases = [], []
    for g in gradients(steps[0], weights):
        axes = range(g.dim()) if g.dim() > 1 else ()
        matrices.append([(1 - beta) * outer(g, axis) for axis in axes])
        bases.append([torch.linalg.eigh(matrix)[1].flip(1) for matrix in matrices[-1]])
    for number, step in enumerate(steps[1:], 1):
        rate = lr * math.sqrt(1 - beta**number) / (1 - beta**number)
        for i, g in enumerate(gradients(step, weights)):
            first[i] += (1 - beta) * (g - first[i])
            turned, momentum = g, first[i]
            for axis, basis in enumerate(bases[i]):
                turned, momentum = along(turned, axis, basis), along(momentum, axis, basis)
            second[i] += (1 - beta) * (turned * turned - second[i])
            change = momentum / (second[i].sqrt() + eps)
            for axis, basis in enumerate(bases[i]):
                change = along(change, axis, basis.T)
            weights[i] -= rate * change
            weights[i] *= 1 - lr * weight_decay
            for axis, matrix in enumerate(matrices[i]):
                matrix += (1 - beta) * (outer(g, axis) - matrix)
            if number % frequency == 0:
                for axis, matrix in enumerate(matrices[i]):
                    product = matrix @ bases[i][axis]
                    order = (bases[i][axis] * product).sum(0).argsort(descending=True)
                    second[i] = second[i].index_select(axis, order)
                    # The library's QR is a float32 one.
                    factor = torch.linalg.qr(product[:, order].float())[0]
                    bases[i][axis] = factor.to(g.dtype)


def orthogonal_momentum(weights, steps, lr, weight_decay, momentum=0.95, rest_betas=(0.9, 0.95)):
    """Muon, Nesterov, with AdamW for vectors (eps 1e-8)."""
    buffers, second = zeros(weights), zeros(weights)
    for number, step in enumerate(steps, 1):
        for w, b, v, g in zip(weights, buffers, second, gradients(step, weights), strict=True):
            w *= 1 - lr * weight_decay
            if w.dim() == 1:
                b += (1 - rest_betas[0]) * (g - b)
                v += (1 - rest_betas[1]) * (g * g - v)
                spread = (v / (1 - rest_betas[1] ** number)).sqrt() + 1e-8
                w -= lr * b / (1 - rest_betas[0] ** number) / spread
                continue
            b += (1 - momentum) * (g - b)
            matrix = ((1 - momentum) * g + momentum * b).reshape(len(w), -1)
            # The quintic acts on the singular values alone.
            u, values, vt = torch.linalg.svd(matrix, full_matrices=False)
            values = values / matrix.norm()
            for _ in range(5):
                values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
            change = (u * values) @ vt
            w -= lr * 0.2 * math.sqrt(max(matrix.shape)) * change.reshape(w.shape)


def lookahead(weights, steps, lr, momentum, k, alpha):
    slow, velocities = [w.clone() for w in weights], zeros(weights)
    for number, step in enumerate(steps, 1):
        for w, v, g in zip(weights, velocities, gradients(step, weights), strict=True):
            v *= momentum
            v += g
            w -= lr * v
        if number % k == 0:
            for w, s in zip(weights, slow, strict=True):
                s += alpha * (w - s)
                w.copy_(s)


def sam(weights, steps, lr, rho, adaptive=False, every=1):
    for number, step in enumerate(steps, 1):
        found = gradients(step, weights)
        if number % every == 0:
            scales = [w.abs() if adaptive else torch.ones_like(w) for w in weights]
            norm = math.sqrt(
                sum(float((s * g).square().sum()) for s, g in zip(scales, found, strict=True))
            )
            near = [
                w + rho * s * s * g / norm for w, s, g in zip(weights, scales, found, strict=True)
            ]
            found = gradients(step, near)
        for w, g in zip(weights, found, strict=True):
            w -= lr * g


def sgd_hd(weights, steps, lr, hypergrad_lr):
    before = zeros(weights)
    for step in steps:
        now = gradients(step, weights)
        lr += hypergrad_lr * sum(float((a * b).sum()) for a, b in zip(now, before, strict=True))
        for w, g in zip(weights, now, strict=True):
            w -= lr * g
        before = now


def adam_hd(weights, steps, lr, hypergrad_lr, betas=(0.9, 0.999), eps=1e-7):
    first, second, before = zeros(weights), zeros(weights), zeros(weights)
    for number, step in enumerate(steps, 1):
        now = gradients(step, weights)
        lr += hypergrad_lr * sum(float((a * b).sum()) for a, b in zip(now, before, strict=True))
        for i, (w, g) in enumerate(zip(weights, now, strict=True)):
            first[i] += (1 - betas[0]) * (g - first[i])
            second[i] += (1 - betas[1]) * (g * g - second[i])
            spread = (second[i] / (1 - betas[1] ** number)).sqrt() + eps
            before[i] = first[i] / (1 - betas[0] ** number) / spread
            w -= lr * before[i]


def nesterov(weights, steps, lr, momentum=0.9):
    velocities = zeros(weights)
    for step in steps:
        for w, v, g in zip(weights, velocities, gradients(step, weights), strict=True):
            v.mul_(momentum).add_(g)
            w -= lr * (g + momentum * v)


def rmsprop(weights, steps, lr, rho=0.9, eps=1e-7):
    squares = zeros(weights)
    for step in steps:
        for w, v, g in zip(weights, squares, gradients(step, weights), strict=True):
            v += (1 - rho) * (g * g - v)
            w -= lr * g / (v.sqrt() + eps)


def adagrad(weights, steps, lr, eps=1e-7):
    sums = [torch.full_like(w, 0.1) for w in weights]
    for step in steps:
        for w, total, g in zip(weights, sums, gradients(step, weights), strict=True):
            total += g * g
            w -= lr * g / (total.sqrt() + eps)


def adadelta(weights, steps, lr, rho=0.95, eps=1e-7):
    squares, changes = zeros(weights), zeros(weights)
    for step in steps:
        for w, v, d, g in zip(weights, squares, changes, gradients(step, weights), strict=True):
            v += (1 - rho) * (g * g - v)
            change = ((d + eps) / (v + eps)).sqrt() * g
            d += (1 - rho) * (change * change - d)
            w -= lr * change


def adamax(weights, steps, lr, betas=(0.9, 0.999), eps=1e-7):
    first, largest = zeros(weights), zeros(weights)
    for number, step in enumerate(steps, 1):
        for w, m, u, g in zip(weights, first, largest, gradients(step, weights), strict=True):
            m += (1 - betas[0]) * (g - m)
            u.copy_(torch.maximum(betas[1] * u, g.abs() + eps))
            w -= lr / (1 - betas[0] ** number) * m / u


def nadam(weights, steps, lr, betas=(0.9, 0.999), eps=1e-7):
    """Dozat 2016, with its warm-up of the momentum."""
    first, second, product = zeros(weights), zeros(weights), 1.0
    for number, step in enumerate(steps, 1):
        now, following = (
            betas[0] * (1 - 0.5 * 0.96 ** (0.004 * count)) for count in (number, number + 1)
        )
        product *= now
        for w, m, v, g in zip(weights, first, second, gradients(step, weights), strict=True):
            m += (1 - betas[0]) * (g - m)
            v += (1 - betas[1]) * (g * g - v)
            spread = (v / (1 - betas[1] ** number)).sqrt() + eps
            mean = (1 - now) * g / (1 - product) + following * m / (1 - product * following)
            w -= lr * mean / spread


def radam(weights, steps, lr, betas=(0.9, 0.999), eps=1e-7):
    """Liu et al. 2020: without the second moment until enough of it is known."""
    first, second = zeros(weights), zeros(weights)
    limit = 2 / (1 - betas[1]) - 1
    for number, step in enumerate(steps, 1):
        unbiased = 1 - betas[1] ** number
        known = limit - 2 * number * betas[1] ** number / unbiased
        for w, m, v, g in zip(weights, first, second, gradients(step, weights), strict=True):
            m += (1 - betas[0]) * (g - m)
            v += (1 - betas[1]) * (g * g - v)
            change = m / (1 - betas[0] ** number)
            if known > 5:
                ratio = (known - 4) * (known - 2) * limit / ((limit - 4) * (limit - 2) * known)
                change = change * math.sqrt(ratio * unbiased) / (v.sqrt() + eps)
            w -= lr * change
