"""PPO with an LSTM on EnvPool's Breakout, in one file of few lines, with the sizes and rates that such programs have: PROGRAM FOLDER SEED

Eight streams, unrolls of 128, four epochs of four minibatches of streams, Adam at 2.5e-4 that falls to nothing over ten million steps, GAE
at 0.95, clipping at 0.1 of policy and value, the Nature CNN, an LSTM of 128 units and orthogonal initial weights.
"""

import sys

import envpool
import numpy as np
import torch
from games import Games
from torch import nn

STREAMS, UNROLL, EPOCHS, PARTS, UNITS = 8, 128, 4, 4, 128
RATE, CLIP, DISCOUNT, TRACE, ENTROPY, VALUE, NORM = 2.5e-4, 0.1, 0.99, 0.95, 0.01, 0.5, 0.5
TOTAL = 10_000_000


def orthogonal(layer, gain: float = 2**0.5):
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class Network(nn.Module):
    def __init__(self, num_actions: int) -> None:
        super().__init__()
        sizes = ((4, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1))
        convolutions = [part for size in sizes for part in (orthogonal(nn.Conv2d(*size)), nn.ReLU())]
        self.encoder = nn.Sequential(*convolutions, nn.Flatten(), orthogonal(nn.Linear(3136, 512)), nn.ReLU())
        self.lstm = nn.LSTM(512, UNITS)
        for name, parameter in self.lstm.named_parameters():
            nn.init.zeros_(parameter) if "bias" in name else nn.init.orthogonal_(parameter)
        self.policy = orthogonal(nn.Linear(UNITS, num_actions), 0.01)
        self.value = orthogonal(nn.Linear(UNITS, 1), 1.0)

    def forward(self, pictures, state, begins):
        """T x B of each; the state is reset where an episode begins."""
        steps, streams = begins.shape
        features = self.encoder(pictures.flatten(0, 1).float() / 255).view(steps, streams, -1)
        outputs = []
        for feature, begin in zip(features, begins, strict=True):
            kept = (1 - begin).view(1, -1, 1)
            output, state = self.lstm(feature.unsqueeze(0), (kept * state[0], kept * state[1]))
            outputs.append(output)
        hidden = torch.cat(outputs)
        return self.policy(hidden), self.value(hidden).squeeze(-1), state


def main() -> int:
    folder, seed = sys.argv[1], int(sys.argv[2])
    torch.manual_seed(seed)
    games = Games(folder)
    env = envpool.make(
        "Breakout-v5", env_type="gymnasium", num_envs=STREAMS, episodic_life=True, reward_clip=True, seed=seed
    )
    network = Network(env.action_space.n)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE, eps=1e-5)
    shape = (UNROLL, STREAMS)
    pictures = torch.zeros((*shape, 4, 84, 84), dtype=torch.uint8)
    actions = torch.zeros(shape, dtype=torch.long)
    old_log, rewards, begins, values = (torch.zeros(shape) for _ in range(4))
    picture = torch.from_numpy(np.asarray(env.reset()[0]))
    begin, scores = torch.ones(STREAMS), np.zeros(STREAMS)
    state = (torch.zeros(1, STREAMS, UNITS), torch.zeros(1, STREAMS, UNITS))
    for done in range(0, TOTAL, UNROLL * STREAMS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - done / TOTAL)
        first = state
        for step in range(UNROLL):
            pictures[step], begins[step] = picture, begin
            with torch.no_grad():
                logits, value, state = network(picture.unsqueeze(0), state, begin.unsqueeze(0))
            chosen = torch.distributions.Categorical(logits=logits[0])
            action = chosen.sample()
            actions[step], old_log[step], values[step] = action, chosen.log_prob(action), value[0]
            seen, reward, terminated, truncated, info = env.step(action.numpy())
            picture, rewards[step] = torch.from_numpy(seen), torch.from_numpy(np.asarray(reward, np.float32))
            begin = torch.from_numpy((terminated | truncated).astype(np.float32))
            games.step(STREAMS)
            scores += info["reward"]
            for stream in np.flatnonzero(info["terminated"] | truncated):
                games.over(scores[stream])
                scores[stream] = 0
        with torch.no_grad():
            _, value, _ = network(picture.unsqueeze(0), state, begin.unsqueeze(0))
        advantages, following, goes_on, ahead = torch.zeros(shape), value[0], 1 - begin, torch.zeros(STREAMS)
        for step in reversed(range(UNROLL)):
            error = rewards[step] + DISCOUNT * following * goes_on - values[step]
            ahead = error + DISCOUNT * TRACE * goes_on * ahead
            advantages[step], following, goes_on = ahead, values[step], 1 - begins[step]
        targets = advantages + values
        for _ in range(EPOCHS):
            for part in torch.randperm(STREAMS).chunk(PARTS):
                logits, value, _ = network(pictures[:, part], [one[:, part] for one in first], begins[:, part])
                policy = torch.distributions.Categorical(logits=logits)
                ratio = (policy.log_prob(actions[:, part]) - old_log[:, part]).exp()
                worth = advantages[:, part]
                worth = (worth - worth.mean()) / (worth.std() + 1e-8)
                gain = torch.minimum(ratio * worth, ratio.clamp(1 - CLIP, 1 + CLIP) * worth).mean()
                near = values[:, part] + (value - values[:, part]).clamp(-CLIP, CLIP)
                error = torch.maximum((value - targets[:, part]) ** 2, (near - targets[:, part]) ** 2).mean() / 2
                loss = VALUE * error - gain - ENTROPY * policy.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), NORM)
                optimizer.step()
    return 0


if __name__ == "__main__":
    sys.exit(main())
