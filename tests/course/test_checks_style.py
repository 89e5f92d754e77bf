"""The checks of lesson 5 refuse wrong answers, each with a message that says in which respect."""

import pytest
import torch

from helpers.course import check
from helpers.course.check import CheckFailed
from helpers.losses import gram_matrix, perceptual_loss, style_loss


def raw_grams(activations):
    rows = activations.flatten(2)
    return rows @ rows.transpose(1, 2)


def right_style_loss(ours, grams):
    return style_loss({layer: gram_matrix(value) for layer, value in ours.items()}, grams)


def make_transfer(start="copy", scale=1.0, clamp=True, before=True, rate=0.05, detach=True):
    """A right answer, or one that is wrong in a way that students are."""

    def transfer(features, content, style, begin, content_layers, style_layers, style_weight=1.0, steps=10):
        with torch.no_grad():
            targets = features(content, content_layers)
            grams = {layer: gram_matrix(a) for layer, a in features(style, style_layers).items()}
        image = (begin if start == "same" else begin.clone()).requires_grad_()
        optimizer, history = torch.optim.Adam([image], lr=rate), []
        for _ in range(steps):
            if not before:
                features(content, content_layers)
            optimizer.zero_grad()
            found = features(image, content_layers)
            loss = perceptual_loss(found, targets) + scale * style_weight * right_style_loss(found, grams)
            loss.sum().backward()
            optimizer.step()
            if clamp:
                image.data.clamp_(0, 1)
            history.append(loss.detach())
        return (image.detach() if detach else image), torch.stack(history)

    return transfer


def refused(checker, *cases):
    for wrong, message in cases:
        with pytest.raises(CheckFailed, match=message):
            checker(wrong)


def test_content_loss_is_checked(capsys):
    check.content_loss(perceptual_loss)
    assert capsys.readouterr().out == "content_loss: passed\n"

    def unrelated(ours, theirs):
        return torch.stack([(ours[k] - theirs[k]).square().mean((1, 2, 3)) for k in theirs]).mean(0)

    refused(
        check.content_loss,
        (unrelated, "too large.*divided"),
        (lambda ours, theirs: perceptual_loss(ours, theirs) / 2, "too small"),
        (lambda ours, theirs: perceptual_loss(ours, theirs).mean(), "shape"),
        (lambda ours, theirs: None, "Tensor"),
    )


def test_gram_matrix_is_checked(capsys):
    check.gram_matrix(gram_matrix)
    assert capsys.readouterr().out == "gram_matrix: passed\n"
    refused(
        check.gram_matrix,
        (raw_grams, "twice as large"),
        (lambda a: gram_matrix(a) / a.shape[1], "too small"),
        (lambda a: a.transpose(2, 3).flatten(2)[..., :4], "symmetric"),
        (lambda a: gram_matrix(a)[0], "shape"),
        (lambda a: (mixed := a.flip(2).flatten(2) @ a.flatten(2).transpose(1, 2)) + mixed.transpose(1, 2), "around"),
    )


def test_style_loss_is_checked(capsys):
    check.style_loss(right_style_loss)
    assert capsys.readouterr().out == "style_loss: passed\n"

    def absolute(ours, grams):
        distances = [(gram_matrix(ours[k]) - grams[k]).square().sum((1, 2)) for k in grams]
        return torch.stack(distances).mean(0)

    refused(
        check.style_loss,
        (absolute, "divided by the squared length"),
        (lambda ours, grams: right_style_loss(ours, grams) * 2, "too large"),
        (lambda ours, grams: right_style_loss(ours, grams).sum(), "shape"),
    )


def test_transfer_is_checked(capsys):
    check.transfer(make_transfer())
    assert capsys.readouterr().out == "transfer: passed\n"
    refused(
        check.transfer,
        (make_transfer(start="same"), "changed in place"),
        (make_transfer(scale=0.1), "too small"),
        (make_transfer(before=False), "once, before the loop"),
        (make_transfer(rate=1e-5), "less than half"),
        (make_transfer(detach=False), "detached"),
        (make_transfer(clamp=False, rate=0.4), "in \\[0, 1\\]"),
    )
