"""Right and plausible wrong answers of every exercise, as changes of the authored solution.

An answer is the share of the points that it must get, or the lowest and the highest (None: only the visible check sees
it), then changes, each (old, new) text, and at the end what the visible check says of it, where that matters.
"""

import ast


def changed(source, changes):
    for old, new in changes:
        assert old in source, old
        source = source.replace(old, new)
    return source


def answers_of(item):
    """Of every answer: lowest and highest share of the points, changes, what the visible check says ("": passed)."""
    for points, *changes in ANSWERS[item]:
        low, high = points if isinstance(points, tuple) else (points, points)
        said = changes.pop() if isinstance(changes[-1], str) else "" if low == 1 else "."
        yield low, high, changes, said


def namespace_of(lesson):
    """What the lesson's setup imports and defines, and the authored solutions."""
    namespace = {}
    for cell in lesson.of_kind("setup"):
        kept = [n for n in ast.parse(cell.source).body if isinstance(n, ast.Import | ast.ImportFrom | ast.FunctionDef)]
        exec(compile(ast.Module(kept, []), lesson.stem, "exec"), namespace)
    for cell in lesson.exercises:
        exec(compile(cell.source, cell.item, "exec"), namespace)
    return namespace


STEP = 'optimizer.param_groups[0]["lr"] = rate * schedule((step + 0.5) / steps)'
KEEP = "        best[better], best_loss[better] = before[better], loss[better]\n"
NORM = " / theirs.square().mean((1, 2, 3))"
Z = "torch.randn(n, generator.z_dim, generator=random)"
ROWS = "w[:, None].repeat(1, generator.num_ws, 1)"
MSE = "(images - targets).square().mean((1, 2, 3))"
ROUND = "((t.clamp(0, 1) * 255).round() / 255 for t in (images, targets))"
POOL = "torch.nn.functional.avg_pool2d(mask, mask.shape[-1] // size)"
INTERPOLATE = "torch.nn.functional.interpolate(mask, size=size"
MASKED = "(values.mean(1, keepdim=True) * mask).sum((1, 2, 3)) / mask.sum().clamp_min(tiny)"
BOTH = "(crossing_gradient(x) + crossing_gradient(y)) / 2"
NORMS = "norm(dim=1, keepdim=True)"
FIRST = "curves[:, :4].diff(dim=1).abs().sum(1)"
SILENT, BOTH_DRAWN = "[torch.zeros_like(m) for m in before.fixed_noise(1)]", "psnr(*images)"
RUN = "optimize_pixels(loss_function, start, steps)"
CHANGE = "((painted - photo) * weights).sum(1, keepdim=True)"
RANKED = "(blocks.argsort(1) + first).flatten()"
GRAM = "rows @ rows.transpose(1, 2) / rows.shape[2]"
LOSS = "content_loss(found, targets) + style_weight * style_loss(ours, grams)"
CLAMP = "        with torch.no_grad():\n            image.clamp_(0, 1)\n"

ANSWERS = {
    "1.1": [
        (1, (ROWS, "w[:, None].expand(-1, generator.num_ws, -1)")),
        (1, (ROWS, "torch.stack([w] * generator.num_ws, 1)")),
        (1, (Z, "torch.normal(0.0, 1.0, (n, generator.z_dim), generator=random)")),
        (1, (Z, "torch.empty(n, generator.z_dim).normal_(generator=random)")),
        (1, (Z, "torch.randn(generator.z_dim, n, generator=random).T")),
        (0.8, ("torch.Generator().manual_seed(seed)", "torch.manual_seed(seed)"), "global seed"),
        (0, ("manual_seed(seed)", "manual_seed(0)"), "another seed"),
        (0, (", generator=random", ""), "the same seed"),
        (0, ("torch.randn", "torch.rand"), "standard normal"),
        (0.4, ("generator.map(z)", "generator.map(z, 0.7)"), "mapping network"),
        (0.6, (ROWS, f"{ROWS} + 0.1 * torch.randn(n, generator.num_ws, 1, generator=random)"), "every row"),
        (0, (f"else {ROWS}", "else w"), "shape"),
        (0, ("return z", "return None"), "should be a torch.Tensor"),
    ],
    "1.2": [
        (1, ("torch.stack(terms).mean(0)", "sum(terms) / len(terms)")),
        (1, (".abs().mean((1, 2, 3))", ".abs().flatten(1).mean(1)")),
        (1, ("delta.flatten(1).square().sum(1)", "(delta**2).sum(tuple(range(1, delta.ndim)))")),
        (1, (NORM, " / (theirs**2).mean()")),
        (1, ("(images - self.target).abs()", "torch.maximum(images - self.target, self.target - images)")),
        (0.55, (".abs().mean(", ".abs().sum(")),
        (0.55, (".abs()", ".square()"), "l1 is too small"),
        (0.4, (NORM, ""), "perceptual is too large"),
        (0.55, (".square().sum(1)", ".square().mean(1)")),
        (0, ('self.weights["delta"] * offset', "offset")),
        (0.9, ("ours = self", "self.features(self.target, self.layers)\n        ours = self"), "kept already"),
        (0.9, ("ours = self.features(images", "ours = self.features(images.detach()"), "gradient"),
        (0, ("return self", "return (self"), ("offset\n", "offset).mean()\n"), "shape"),
    ],
    "1.3": [
        (1, ("optimizer.zero_grad()", "delta.grad = None")),
        (1, ("loss.sum().backward()", "loss.backward(torch.ones_like(loss))")),
        (1, ("loss.sum().backward()", "(delta.grad,) = torch.autograd.grad(loss.sum(), delta)")),
        (1, ("    optimizer.zero_grad()\n", ""), ("    loss.sum()", "    optimizer.zero_grad()\n    loss.sum()")),
        (1, ("return loss.detach()", "return loss.detach().clone()")),
        (0.3, ("loss.sum()", "loss.mean()"), "summed"),
        (0, ("    optimizer.zero_grad()\n", ""), "old gradients"),
        (0.85, ("return loss.detach()", "return loss"), "detached"),
        (0.5, ("return loss.detach()", "return loss_function(delta).detach()")),
        (0, ("    optimizer.step()\n", ""), "did not move"),
        (0, ("return loss.detach()", "return loss.detach().sum()")),
        (0, ("loss.sum()", "-loss.sum()")),
        (0.5, ("return loss.detach()", "return loss.detach() / len(loss)")),
    ],
    "1.4": [
        (1, (STEP, 'optimizer.param_groups[0]["lr"] = rate')),
        (1, (STEP, 'optimizer.param_groups[0]["lr"] = rate * (1 - 0.9 * step / steps)')),
        (1, (KEEP, "        best, best_loss = torch.where(better[:, None], before, best), best_loss.minimum(loss)\n")),
        (1, (KEEP, "        for i in better.nonzero():\n            best[i], best_loss[i] = before[i], loss[i]\n")),
        (1, ("before = (start + delta).detach()", "before = start + delta.detach().clone()")),
        (0.75, ("return best, ", "return (start + delta).detach(), "), "best code of each"),
        (0.75, ("before[better]", "(start + delta).detach()[better]")),
        (0.75, ("better = loss < best_loss", "better = (loss.sum() < best_loss.sum()).expand(len(loss))")),
        (0.75, ("history.append(loss)", "history.append(best_loss.clone())"), "best so far"),
        (0.75, ("torch.stack(history)", "torch.zeros(steps, len(start))"), "of the start itself"),
        (0.75, ("torch.stack(history)", "torch.stack(history[1:] + history[:1])")),
        (0, ("return best, ", "return start, "), "fall well below"),
        (0, ("loss < best_loss", "loss > best_loss")),
    ],
    "1.5": [
        (1, ("return a + t * (b - a)", "return torch.lerp(a, b, t)")),
        (1, ("return a + t * (b - a)", "return (1 - t) * a + t * b")),
        (1, (".clamp(-1 + 1e-6, 1 - 1e-6)", "")),
        (1, ("(lengths[0] + t * (lengths[1] - lengths[0]))", "torch.lerp(lengths[0], lengths[1], t)")),
        (1, ("theta = torch.acos((u * v).sum(1, keepdim=True)", "theta = torch.acos((u @ v.T)")),
        (0.5, ('if space != "z":', "if True:"), "sphere"),
        (0.5, ("(lengths[0] + t * (lengths[1] - lengths[0]))", "lengths[0]")),
        (0.5, ("(lengths[0] + t * (lengths[1] - lengths[0]))", "1"), "t = 0 should give a"),
        (0.5, ("a / lengths[0]", "a")),
        (0.5, ("torch.sin(t * theta) * v", "torch.sin(t) * v")),
        (0.5, ('if space != "z":', 'if space != "z" and True:'), ("return a + t * (b - a)", "return b + t * (a - b)")),
        (0.75, ('if space != "z":', 'if space == "w":')),
        (0, ("t = t.reshape(-1, *[1] * (a.ndim - 1))", "t = (t * t).reshape(-1, *[1] * (a.ndim - 1))")),
    ],
    "2.1": [
        (1, ("10 * torch.log10(1 / mse)", "-10 * torch.log10(mse)")),
        (1, ("10 * torch.log10(1 / mse)", "20 * torch.log10(1 / mse.sqrt())")),
        (1, (MSE, "((images - targets) ** 2).flatten(1).mean(1)")),
        (1, (ROUND, "((t.clamp(0, 1) * 255 + 0.5).floor() / 255 for t in (images, targets))")),
        (1, (ROUND, "((t.double().clamp(0, 1) * 255).round() / 255 for t in (images, targets))")),
        (0.5, ("1 / mse", "images.amax((1, 2, 3)) ** 2 / mse"), "too low; the peak is 1"),
        (0.75, (ROUND, "(t.clamp(0, 1) for t in (images, targets))"), "8-bit"),
        (0.75, ("t.clamp(0, 1)", "t"), "clamped"),
        (0.25, ("10 * torch.log10(1 / mse)", "20 * torch.log10(1 / mse)")),
        (0, (MSE, f"{MSE}.mean().expand(len(images))")),
        (0.25, (MSE, "(images - targets).abs().mean((1, 2, 3))")),
        (0.25, ("10 * torch.log10(1 / mse)", "10 * torch.log10(4 / mse)"), "too high"),
        (0, ("10 * torch.log10(1 / mse)", "10 * torch.log10(1 / mse).mean()"), "one value per image"),
    ],
    "2.2": [
        (1, ("r * schedule((step + 0.5) / steps)", "r")),
        (1, (".square().sum((1, 2, 3))", ".square().flatten(1).sum(1)")),
        (1, ("s.abs().clamp_min(1e-6).item()", "max(float(s.abs()), 1e-6)")),
        (1, (".square().sum((1, 2, 3))", ".square().mean((1, 2, 3))")),
        (1, ("r * schedule((step + 0.5) / steps)", "r * (1 - 0.8 * step / steps)")),
        ((0.2, 0.69), ("if per_layer else 1.0", "if False else 1.0"), "larger step"),
        (0.8, ("torch.stack(history)", "torch.full((steps, len(targets)), 999.0)"), "begin with the PSNR"),
        (0, ("        optimizer.step()\n", ""), "rise by far more"),
        (0.7, ("if per_layer else 1.0", "if True else 1.0"), "same with per_layer=False"),
        (0, ("return [m.detach() for m in maps]", "return generator.fixed_noise(len(targets))")),
        ((0, 0.8), ("rate / strength for", "0.01 * rate / strength for")),
        (0, ("    return [m", "    latents.code += 0.1\n    return [m"), "stay as it was"),
        (None, ("return [m.detach() for m in maps]", "return maps"), "detached"),
    ],
    "2.3": [
        (1, (FIRST, "(curves[:, 1] - curves[:, 0]).abs()")),
        (1, (FIRST, "(curves[:, 1] - curves[:, 0]).square()")),
        (1, (FIRST, "curves.diff(dim=1).abs().amax(1)")),
        (1, ("first_steps.argsort().argsort()", "[sorted(first_steps).index(x) for x in first_steps]")),
        (1, ("first_steps.argsort().argsort()", "(first_steps[:, None] > first_steps).sum(1)")),
        ((0, 0.8), (FIRST, "curves[:, 1] - curves[:, 0]"), "of 4 curves"),
        ((0, 0.8), (FIRST, "curves[:, -1]"), "first steps"),
        ((0, 0.8), (FIRST, "curves.amin(1)")),
        ((0, 0.8), ("first_steps.argsort().argsort()", "first_steps.argsort()")),
        ((0, 0.8), ("rates[first_steps", "rates.flip(0)[first_steps")),
        (0, ("first_steps.argsort().argsort()", "[0, 0, 0, 0]"), "every rate belongs to one curve"),
        (0, ("rates[first_steps.argsort().argsort()]", "first_steps.argsort().argsort().float()"), "one of the rates"),
        ((0, 0.8), ("rates[first_steps", "rates.tolist() or [first_steps"), "should be a torch.Tensor"),
    ],
    "2.4": [
        (1, ("torch.stack(values).mean(0)", "sum(values) / len(values)")),
        (1, ("generator.fresh_noise(1, seed + draw)", "generator.fresh_noise(n=1, seed=seed + draw)")),
        (1, ("range(draws)", "reversed(range(draws))")),
        (1, ("for draw in range(draws):", "for draw in list(range(draws)):")),
        (1, ("generator.synthesize(latents, ", "generator.synthesize(Latents(latents.space, latents.code), ")),
        (0.3, ("seed + draw", "seed"), "mean over the draws"),
        (0, ("seed + draw", "draw")),
        (0, (", generator.fresh_noise(1, seed + draw))", ")"), "fitted maps"),
        (0.3, ("torch.stack(values).mean(0)", "torch.stack(values).sum(0)")),
        (0.3, ("torch.stack(values).mean(0)", "values[-1]")),
        (0, ("range(draws)", "range(1, draws + 1)")),
        (0.3, ("torch.stack(values).mean(0)", "torch.stack(values).median(0).values")),
        (0.3, ("psnr(images, targets)", "images"), ("torch.stack(values)", "psnr(sum(values) / draws, targets)[None]"),
         "average decibels"),
    ],
    "2.6": [
        (1, (SILENT, "[torch.zeros(1, 1, *shape) for shape in before.noise_shapes]")),
        (1, (SILENT, "[0 * m for m in before.fresh_noise(1)]")),
        (1, (SILENT, "[m - m for m in after.fixed_noise(len(latents))]")),
        (1, (BOTH_DRAWN, "psnr(images[1], images[0])")),
        (1, (BOTH_DRAWN, "torch.cat([psnr(a[None], b[None]) for a, b in zip(*images)])")),
        (0, (", silent)", ")"), "maps of zeros"),
        (0, ("zeros_like", "ones_like"), "maps of zeros"),
        (0, (SILENT, "before.fresh_noise(1)")),
        (0, (SILENT, "before.fixed_noise(1)")),
        (0, ("(before, after)", "(after, after)"), "infinite"),
        (0, (BOTH_DRAWN, "psnr(*images).mean()"), "shape"),
        (0, (BOTH_DRAWN, "-psnr(*images)")),
        (0, (BOTH_DRAWN, "(images[0] - images[1]).square().mean((1, 2, 3))")),
    ],
    "3.1": [
        (1, (POOL, "torch.nn.functional.adaptive_avg_pool2d(mask, size)")),
        (1, (POOL, f"{INTERPOLATE}, mode='area')")),
        (1, (POOL, "mask.unflatten(3, (size, -1)).mean(4).unflatten(2, (size, -1)).mean(3)")),
        (1, (f"[{POOL} for size in sizes]", f"tuple({POOL} for size in sizes)")),
        (1, (POOL, "torch.nn.functional.avg_pool2d(mask.double(), mask.shape[-1] // size).float()")),
        (0, (POOL, f"{INTERPOLATE})"), "share of the area"),
        (0, (POOL, "torch.nn.functional.avg_pool2d(mask, mask.shape[-1] // size, divisor_override=1)")),
        (0.1, (POOL, f"{POOL}.flip(3)"), "lies elsewhere"),
        (0.1, (POOL, f"{POOL}.transpose(2, 3)")),
        (0, (POOL, f"{POOL}[:1].expand(2, -1, -1, -1)")),
        (0, (POOL, "mask"), "shape"),
        (0, ("in sizes", "in sizes[:2]"), "for each of 4 sizes"),
        (0, (f"[{POOL} for size in sizes]", "mask"), "a list"),
    ],
    "3.2": [
        (1, ("mask * images + (1 - mask) * x", "torch.lerp(x, images, mask)")),
        (1, ("(values.mean(1, keepdim=True) * mask)", "(values * mask / values.shape[1])")),
        (1, ("torch.stack(perceptual).mean(0)", "sum(perceptual) / len(layers)")),
        (1, ("(images - x).square()", "(images - x) ** 2")),
        (1, (".clamp_min(tiny)\n\n", ".clamp(min=tiny)\n\n")),
        ((0, 0.5), ("/ mask.sum().clamp_min(tiny)", "/ mask[0].numel()"), "first term is too small"),
        (0.65, ("(images - x).square(), mask)", "(images - x * mask).square(), mask)"), "first term is too large"),
        (0.55, ("looked_at = mask * images + (1 - mask) * x", "looked_at = images"), "perceptual term"),
        (0.9, (".clamp_min(tiny)\n\n", "\n\n"), "empty mask"),
        (0.55, (" / masked_mean(theirs[layer].square(), at_layer).clamp_min(tiny)", "")),
        ((0.4, 0.6), (", 1 - mask)", ", mask)")),
        (0.35, ("(values.mean(1, keepdim=True) * mask)", "(values.sum(1, keepdim=True) * mask)")),
        (0, ("return weights", "return (weights"), ("* perceptual", "* perceptual).sum()"), "shape"),
    ],
    "3.3": [
        (1, (NORMS, "square().sum(1, keepdim=True).sqrt()")),
        (1, (NORMS, "pow(2).sum(1, True) ** 0.5")),
        (1, ("return float(", "return 0.0 + float(")),
        (1, (BOTH, "torch.stack([crossing_gradient(x), crossing_gradient(y)]).mean()")),
        (1, ("image[..., 1:] - image[..., :-1]", "image[..., :-1] - image[..., 1:]")),
        (0.2, (NORMS, "abs().sum(1, keepdim=True)")),
        (0.4, (f"({BOTH})", "(2 / (1 / crossing_gradient(x) + 1 / crossing_gradient(y)))")),
        (0, (", down[inside[..., 1:, :] != inside[..., :-1, :]]", ""), "horizontal and vertical"),
        (0, ("across[inside[..., 1:] != inside[..., :-1]], ", "")),
        (0, ("torch.cat(pairs).mean()", "(pairs[0].mean() + pairs[1].mean()) / 2")),
        (0, (BOTH, "(crossing_gradient(x) + crossing_gradient(y))")),
        (0, ("crossing_gradient(image) / ", "1.0 * "), "seam of 1"),
        (None, ("return float(", "return ("), "should be a float"),
    ],
    "4.1": [
        (1, ("torch.where(alpha < threshold, 0.0, alpha)", "alpha * (alpha >= threshold)")),
        (1, ("image * (mask > 0)", "torch.where(mask > 0, image, 0.0)")),
        (1, ("torch.from_numpy(rgba.copy())", "torch.tensor(rgba)")),
        (1, (".permute(2, 0, 1)[None].float() / 255", ".float().div(255).permute(2, 0, 1).unsqueeze(0)")),
        (1, ("image * (mask > 0)", "image * (alpha >= threshold)")),
        (0.6, ("torch.where(alpha < threshold, 0.0, alpha)", "(alpha >= threshold).float()"), "as much as its alpha"),
        (0, ("torch.where(alpha < threshold, 0.0, alpha)", "alpha"), "below the threshold"),
        (0.8, ("alpha < threshold", "alpha < 0.1"), "threshold that is given"),
        (0.6, ("image * (mask > 0)", "image"), "do not count should be 0"),
        (0.2, (".float() / 255", ".float()"), ("< threshold", "< 255 * threshold"), r"in \[0, 1\]"),
        (0, ("permute(2, 0, 1)[None]", "permute(2, 1, 0)[None]"), "shape"),
        ((0, 0.2), ("alpha < threshold, 0.0, alpha", "alpha < threshold, alpha, 0.0")),
        (None, ("rgba.copy()", "rgba"), ("    return image", "    rgba[0] = 0\n    return image"), "stay as it was"),
    ],
    "4.2": [
        (1, ("blocks.argsort(1)", "blocks.sort(1).indices")),
        (1, (RANKED, "torch.cat([block.argsort() + i * starts for i, block in enumerate(blocks)])")),
        (1, (RANKED, "(blocks.argsort(dim=-1) + first).view(-1)")),
        (1, ("total.view(-1, starts)", "total.reshape(len(total) // starts, starts)")),
        (1, (RANKED, "torch.tensor(sorted(range(len(total)), key=lambda i: (i // starts, total[i])))")),
        (0.3, (RANKED, "total.argsort()"), "left the block"),
        (0.3, (" + first).flatten()", ").flatten()"), "exactly once"),
        (0, ("argsort(1)", "argsort(1, descending=True)"), "worst comes first"),
        (0, ("blocks.argsort(1)", "blocks.argsort(1).argsort(1)")),
        (0, (RANKED, "torch.arange(len(total))")),
        ((0, 0.31), ("total.view(-1, starts)", "total.view(starts, -1).T")),
        (0, (RANKED, "(blocks.argsort(0) * 0 + blocks.argsort(1).flip(1) + first).flatten()")),
        (0, (RANKED, "total.sort().values"), "whole numbers"),
    ],
    "4.3": [
        (1, ("last < 0.95 * before", "1 - last / before > 0.05")),
        (1, ("(away > 1.5).long()", "torch.where(away > 1.5, 1, 0)")),
        (1, ("colour[-1 - len(colour) // 5]", "colour[:-(len(colour) // 5)][-1]")),
        (1, ("last, before = colour[-1]", "last, before = colour.amin(0)")),
        (1, ("(away > 1.5).long(), missed)", "0 + (away > 1.5), missed)")),
        (0, ("last <= met", "last <= 0.06"), "0.04 has cause 3"),
        (0.6, ("away > 1.5", "away > 1.1")),
        ((0, 0.6), ("away < 0.5", "away < 1.1"), "first that holds"),
        (0.6, ("colour[-1 - len(colour) // 5]", "colour[0]"), "cause 4, not 3"),
        (0.6, ("3, 4", "4, 3")),
        ((0, 0.4), ("last <= met, (away > 1.5).long()", "away > 1.5, 1")),
        (0.6, ("(away > 1.5).long()", "0")),
        (None, ("(away > 1.5).long(), missed)", "(away > 1.5).long(), missed).float()"), "whole numbers"),
    ],
    "5.1": [
        (1, ("image.clamp_(0, 1)", "image.copy_(image.clamp(0, 1))")),
        (1, ("loss.sum().backward()", "loss.backward(torch.ones_like(loss))")),
        (1, ("loss.sum()", "loss.mean()")),
        (1, ("optimizer.zero_grad()", "image.grad = None")),
        (1, (CLAMP, "        image.data = image.data.clamp(0, 1)\n")),
        ((0.5, 0.8), (CLAMP, ""), ("return image.detach()", "return image.detach().clamp(0, 1)"), "after every step"),
        ((0, 0.3), (CLAMP, ""), r"in \[0, 1\]"),
        (0.7, ("torch.stack(history)", "torch.zeros(steps, len(start))"), "first loss"),
        (0.7, ("history.append(loss.detach())", "history.append(loss_function(image).detach())")),
        (0, ("        optimizer.step()\n", ""), "gradient and rate"),
        (0, ("lr=lr", "lr=0.01 * lr")),
        (None, ("start.clone()", "start"), "changed in place"),
        (None, ("return image.detach()", "return image"), "detached"),
    ],
    "5.2": [
        (1, (GRAM, "torch.bmm(rows, rows.mT) / rows.shape[-1]")),
        (1, (GRAM, "torch.einsum('bcn,bdn->bcd', rows, rows) / rows.shape[2]")),
        (1, (GRAM, "(rows / rows.shape[2]) @ rows.transpose(1, 2)")),
        (1, (GRAM, "(rows[:, :, None] * rows[:, None]).mean(3)")),
        (1, ("activations.flatten(2)", "activations.reshape(*activations.shape[:2], -1)")),
        (0.4, (" / rows.shape[2]", ""), "twice as large"),
        (0.4, ("/ rows.shape[2]", "/ rows.shape[1]")),
        (0.4, ("/ rows.shape[2]", "/ rows[0].numel()"), "too small"),
        (0, ("rows @ rows.transpose(1, 2)", "rows @ rows.flip(2).transpose(1, 2)"), "around"),
        (0, ("activations.flatten(2)", "activations.flatten(2) - activations.flatten(2).mean(2, keepdim=True)")),
        (0, (GRAM, f"({GRAM}).triu()"), "symmetric"),
        (0, (GRAM, f"({GRAM}).mean(0, keepdim=True).expand(3, -1, -1)")),
        (0, (GRAM, f"({GRAM})[0]"), "shape"),
    ],
    "5.3": [
        (1, ("torch.stack(losses).mean(0)", "sum(losses) / len(losses)")),
        (1, (".square().sum((1, 2))\n", ".square().flatten(1).sum(1)\n")),
        (1, ("target.square().sum((1, 2))", "target.square().sum()")),
        (1, (".square().sum((1, 2))\n", ".square().mean((1, 2))\n"), ("square().sum((1, 2)))", "square().mean())")),
        (1, ("(gram_matrix(ours[layer]) - target)", "(target - gram_matrix(ours[layer]))")),
        (0, (" / target.square().sum((1, 2))", ""), "divided by the squared length"),
        (0.5, ("torch.stack(losses).mean(0)", "torch.stack(losses).sum(0)"), "too large"),
        (0, ("distance / target.square().sum((1, 2))", "distance / target.abs().sum((1, 2))")),
        (0, (".square().sum((1, 2))\n", ".abs().sum((1, 2))\n")),
        (0, (".square().sum((1, 2))\n", ".square().mean((1, 2))\n")),
        (0, ("torch.stack(losses).mean(0)", "torch.stack(losses).mean().expand(3)")),
        (0, ("gram_matrix(ours[layer])", "gram_matrix(ours[layer]) * ours[layer][0, 0].numel()")),
        (0, ("torch.stack(losses).mean(0)", "torch.stack(losses).sum()"), "shape"),
    ],
    "5.4": [
        (1, (LOSS, "style_weight * style_loss(ours, grams) + content_loss(found, targets)")),
        (1, (RUN, RUN.replace("steps)", "steps, 0.05)"))),
        (1, (RUN, RUN.replace("start, ", "start.clone(), steps="))),
        (1, ("with torch.no_grad():", "if True:"), ("(a) for", "(a).detach() for")),
        (1, ("style_loss(ours, grams)", "style_loss(found, grams)")),
        ((0, 0.71), (LOSS, LOSS.replace("style_weight * ", "")), "too small"),
        ((0, 0.7), (LOSS, "style_weight * style_loss(ours, grams)")),
        ((0, 0.7), (LOSS, "content_loss(found, targets)")),
        ((0, 0.7), ("features(style, style_layers)", "features(content, style_layers)")),
        (0, (RUN, RUN.replace("steps", "5")), "shape"),
        (0, (f"return {RUN}", f"return start, {RUN}[1]"), "less than half"),
        (0.7, (f"return {RUN}", f"images, history = {RUN}\n    return images, history.flip(0)")),
        (None, ("found = ", "features(content, layers)\n        found = "), "once, before the loop"),
    ],
    "5.5": [
        (1, ("(photo + change)", "torch.add(photo, change)")),
        (1, (CHANGE, "torch.einsum('bchw,c->bhw', painted - photo, weights.flatten())[:, None]")),
        (1, ("((painted - photo) * weights)", "(painted * weights - photo * weights)")),
        (1, ("[0.299, 0.587, 0.114]", "[0.2989, 0.5870, 0.1140]")),
        (1, (".clamp(0, 1)", ".clamp_min(0).clamp_max(1)")),
        (0.7, (".clamp(0, 1)", ""), "clamp it"),
        (0, ("0.299, 0.587, 0.114", "1 / 3, 1 / 3, 1 / 3"), "luminance"),
        (0, ("0.299, 0.587, 0.114", "0.114, 0.587, 0.299")),
        (0, ("painted - photo", "photo - painted")),
        (0, ("(photo + change)", "(painted + change)")),
        (0, ("(photo + change)", "(painted - change)")),
        (0, ("(photo + change)", "(photo + 0.5 * change)")),
        (0, (CHANGE, "((painted - photo) * weights).mean(1, keepdim=True)")),
    ],
}  # fmt: skip
