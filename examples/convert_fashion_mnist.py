"""A convnet for Fashion-MNIST, trained in nsim, becomes a spiking network.

Two convolutions with batch norm and maximum pooling, trained with Adam on nsim's own tape; then conversion to bistable
neurons (Li, Zhao & Zeng 2021), in which a pooling passes exactly the largest value, and to integrate-and-fire neurons
that end early where the decision is clear. The margin for that is chosen on held-out training images.

    python examples/convert_fashion_mnist.py

Data: Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747, MIT licence.
"""

import time

import numpy as np
from _shared import command_line, run, save

import nsim
from nsim import ann, convert, losses, optim, plot
from nsim.datasets import FashionMNIST
from nsim.errors import MissingDataError

STEPS = 32


def pictures(args):
    """(images float32 [S, 1, 28, 28], labels) of the training and of the test part."""
    try:
        parts = [FashionMNIST(split, args.data, download=not args.smoke) for split in ("train", "test")]
    except MissingDataError as error:
        if not args.smoke or args.data is not None:
            raise
        print(f"{error}\n=> Going on with bright squares instead.\n")
        return squares(np.random.default_rng(args.seed), 256), squares(np.random.default_rng(args.seed + 1), 64)
    count = (256, 64) if args.smoke else (60_000, 10_000)
    print(f"training {parts[0]!r}\ntest     {parts[1]!r}")
    return [
        ((part.images[:n, None] / np.float32(255) - np.float32(0.286)) / np.float32(0.353), part.labels[:n])
        for part, n in zip(parts, count, strict=True)
    ]


def squares(rng, count):
    """Noise with a bright square in one of ten places."""
    images, labels = rng.normal(size=(count, 1, 28, 28)).astype(np.float32), rng.integers(0, 10, count)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 5)
        image[0, 12 * row + 2 : 12 * row + 8, 5 * column + 1 : 5 * column + 6] += 3
    return images, labels


def network(seed):
    net = ann.Graph(seed=seed)
    x = net.input((1, 28, 28))
    for channels in (16, 32):
        x = net.relu(net.batch_norm(net.conv2d(x, channels, 3, padding=1, bias=False)))
        x = net.max_pool(x, 2)
    net.linear(net.flatten(x), 10)
    return net


def train(net, images, labels, epochs, seed):
    opt, rng = optim.Adam(net.parameters(), lr=2e-3), np.random.default_rng(seed)
    net.train()
    for epoch in range(epochs):
        start, total, order = time.perf_counter(), 0.0, rng.permutation(len(images))
        for k in range(0, len(order), 128):
            chosen = order[k : k + 128]
            loss = losses.cross_entropy(net(images[chosen]), labels[chosen])
            opt.zero_grad()
            loss.backward()
            opt.step()
            total += loss.item() * len(chosen)
        print(f"epoch {epoch}: loss {total / len(order):.3f}, {time.perf_counter() - start:.0f} s", flush=True)
    net.eval()


def main():
    args = command_line(__doc__, "convert-fashion")
    nsim.seed(args.seed)
    (images, labels), (tested, truth) = pictures(args)
    net, held = network(args.seed), len(images) // 20
    train(net, images[held:], labels[held:], 4 if args.smoke else 3, args.seed)
    tested, truth = tested[:2000], truth[:2000]
    output, _ = net.forward(tested)
    own = (output.argmax(1) == truth).mean()
    print(f"\nthe network itself: {own:.1%} of {len(tested):,} test images right")

    snn = convert.to_spiking(net, images[held : held + 1000], convert.Bistable(phases=4), percentile=99.9)
    last = snn(tested, snn.first_answer)[:, -1].argmax(1)
    print(f"bistable: {(last == truth).mean():.1%} right after {snn.first_answer} steps, "
          f"{(last == output.argmax(1)).mean():.1%} as the network")  # fmt: skip

    fast = convert.to_spiking(net, images[held : held + 1000], convert.IF(signed=True), percentile=99.9)
    logits = fast(tested, STEPS)
    margin = chosen_margin(fast, images[:held], labels[:held])
    early = fast.predict(tested, STEPS, margin=margin)
    right, sooner = (logits[:, -1].argmax(1) == truth).mean(), (early.classes == truth).mean()
    print(f"integrate-and-fire: {right:.1%} right after {STEPS} steps")
    print(f"ended at a lead of {margin:.0f}: {sooner:.1%} right after {early.steps.mean():.1f} steps on average")
    save(plot.accuracy_over_steps(logits, truth, reference=own), args.out / "accuracy.png")
    return 0


def chosen_margin(snn, images, labels):
    """The smallest lead at which held-out images come within half a point of the whole run."""
    images, labels = images[:500], labels[:500]
    whole = (snn.predict(images, STEPS).classes == labels).mean()
    for margin in (1, 2, 4, 8, 16):
        if (snn.predict(images, STEPS, margin=margin).classes == labels).mean() >= whole - 0.005:
            break
    return float(margin)


if __name__ == "__main__":
    run(main)
