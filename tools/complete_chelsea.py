"""Give chelsea her ears: ``python tools/complete_chelsea.py`` writes data/chelsea-whole.png from scikit-image's photo.

The photo (CC0) ends at the forehead and below the chin. Models of whole faces need the rest, so the model draws it: of
160 samples, the four whose faces are nearest to the photo's are moved towards it in w+, and the best of them, chosen by
eye, is kept around the photo. Only what lies inside ``HEAD`` is a photograph.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from helpers import masks
from helpers.cat_faces import find_cats
from helpers.features import load_features
from helpers.generators import load_critic, load_generator
from helpers.images import write_image
from helpers.photos import WITH_EARS, cut_square, demo_photos, fit_similarity

MODEL, SIZE, STEPS, STARTS, SAMPLES, CHOSEN = "stylegan2-cats-128", 256, 70, 4, 160, 3
LAYERS = ("conv1_2", "conv2_2", "conv3_2", "conv4_2")
HEAD = [(45, 3), (330, 3), (366, 66), (360, 140), (318, 215), (290, 270), (240, 290)]  # pixels of the photo, by hand
HEAD += [(170, 275), (100, 230), (40, 190), (28, 110)]


def aligned(photo, size):
    """The photo (1, 3, size, size) with eyes and nose where the model has them, and the mask of the head in it."""
    turn, shift = fit_similarity(find_cats(photo)[0].landmarks, np.array(WITH_EARS) * size)
    points = [(turn * complex(*point) + shift) / size for point in HEAD]
    return cut_square(photo, turn, shift, size, "border"), masks.polygon(size, [(p.real, p.imag) for p in points])


def distance(images, target, mask, features):
    """L1 under the mask plus half of the relative distance of features, where the outside is the target's; (B,)."""
    l1 = ((images - target).abs().mean(1, keepdim=True) * mask).sum((1, 2, 3)) / mask.sum()
    ours, theirs = features(images * mask + target * (1 - mask), LAYERS), features(target, LAYERS)
    parts = [(ours[k] - theirs[k]).square().mean((1, 2, 3)) / theirs[k].square().mean() for k in LAYERS]
    return l1 + 0.5 * torch.stack(parts).mean(0) / mask.mean()


def complete(target, mask):
    """Images (STARTS, 3, H, W) of the model, like the target under the mask and like a cat elsewhere."""
    generator, features, critic = load_generator(MODEL), load_features("vgg19-slim"), load_critic(MODEL)
    mean, std = generator.mean("w"), generator.std("w").mean().item()
    with torch.no_grad():
        samples = mean + 0.85 * (generator.sample("w", SAMPLES, seed=11) - mean)
        near = [distance(generator.synthesize(w).clamp(0, 1), target, mask, features) for w in samples.split(32)]
        values, vectors = torch.linalg.eigh(torch.cov(generator.sample("w", 4000, seed=3).T))
    whiten = vectors * values.clamp_min(values.max() * 1e-4).rsqrt()  # w without correlations, of variance 1
    codes = samples[torch.cat(near).argsort()[:STARTS]][:, None].repeat(1, generator.num_ws, 1).requires_grad_()
    optimizer = torch.optim.Adam([codes])
    for step in tqdm(range(STEPS)):
        rate = 0.16 * std * min(1, (step + 1) / 10) * (0.5 + 0.5 * math.cos(math.pi * step / STEPS))
        optimizer.param_groups[0]["lr"] = rate
        images = generator.synthesize(codes)
        unlikely = ((codes - mean) @ whiten).square().mean((1, 2))
        apart = (codes - codes.mean(1, keepdim=True)).square().mean((1, 2)) / generator.std("w").square().mean()
        unreal = F.softplus(-critic(images, group_size=1))
        loss = distance(images, target, mask, features) + 0.02 * (unlikely + apart) + 0.01 * unreal
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    with torch.no_grad():
        return generator.synthesize(codes).clamp(0, 1)


def main() -> None:
    photo = demo_photos(None, ["chelsea"])["chelsea"]
    target, mask = aligned(photo, load_generator(MODEL).resolution)
    images = complete(target, masks.feather(mask, 1.0) * mask)
    around = F.interpolate(images[CHOSEN][None], size=SIZE, mode="bicubic", antialias=True).clamp(0, 1)
    target, mask = aligned(photo, SIZE)
    soft = masks.feather(masks.grow(mask, -5), 5.0) * mask
    write_image(Path("data") / "chelsea-whole.png", torch.lerp(around, target, soft))


if __name__ == "__main__":
    main()
