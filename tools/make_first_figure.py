"""Make the README's first image: ``python tools/make_first_figure.py`` writes data/figures/demo.png in two minutes."""

import torch

from helpers.blending import Editor
from helpers.features import load_features
from helpers.figures import save_figure, show_images
from helpers.generators import load_critic, load_generator
from helpers.inversion import project
from helpers.latents import chosen_samples, interpolate
from helpers.masks import half
from helpers.noise import optimize_noise
from helpers.photos import demo_cat
from helpers.sketch import SketchSearch, read_sketch, sketch_constraints


def main() -> None:
    generator, features = load_generator("stylegan2-cats-128"), load_features("vgg19-slim")
    size, critic = generator.resolution, load_critic("stylegan2-cats-128")
    chelsea = demo_cat(size, generator.landmarks)
    with torch.no_grad():
        other = generator.synthesize(chosen_samples(generator)[0]).clamp(0, 1)
    found = project(generator, torch.cat([chelsea, other]), "w+", features=features, steps=200)
    noise = optimize_noise(generator, chelsea, found.latents[0], steps=200)
    with torch.no_grad():
        morph = generator.synthesize(interpolate(found.latents[0], found.latents[1], 0.5)).clamp(0, 1)
    blend = Editor(generator, features).crossover(chelsea, other, half(size), feather=size // 16, steps=120).run()
    sketch = read_sketch("data/sketches/whole/dense-painting.png", size)
    terms = sketch_constraints(sketch, generator, discriminator=critic)
    cat = SketchSearch(generator, terms, space="w", steps=60, starts=8).run()
    images = {
        "a photo": chelsea, "its latent, drawn": found.images[:1], "with noise maps": noise.images,
        "half-way to another": morph, "blended with it": blend.images, "a sketch": sketch.on_paper(),
        "a cat that follows it": cat.images[:1],
    }  # fmt: skip
    save_figure(show_images(list(images.values()), list(images), columns=7), "data/figures/demo.png")


if __name__ == "__main__":
    main()
