"""The modules that the peer of `pretrain` trains, in PyTorch with the constructors, results and mathematics of the reference's.

Attention is scaled_dot_product_attention, which is flash attention on a GPU; stochastic depth computes the kept samples alone. Each batch of
crops is a pass of its own, as the reference takes them where xformers is not there.
"""
import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, width, heads, drop, init_values):
        super().__init__()
        self.heads, self.drop = heads, drop
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma1, self.gamma2 = (nn.Parameter(init_values * torch.ones(width)) for _ in range(2))

    def attention(self, x):
        rows, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(rows, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return self.gamma1 * self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows, length, width))

    def mlp(self, x):
        return self.gamma2 * self.fc2(F.gelu(self.fc1(self.norm2(x))))

    def added(self, x, residual):
        if not self.training or self.drop == 0:
            return x + residual(x)
        rows = len(x)
        kept = torch.randperm(rows, device=x.device)[: max(int(rows * (1 - self.drop)), 1)]
        change = residual(x[kept]).flatten(1).to(x.dtype)
        return torch.index_add(x.flatten(1), 0, kept, change, alpha=rows / len(kept)).view_as(x)

    def forward(self, x):
        return self.added(self.added(x, self.attention), self.mlp)


class DinoVisionTransformer(nn.Module):
    def __init__(self, patch_size, img_size, embed_dim, depth, num_heads, init_values, drop_path_rate, **_):
        super().__init__()
        self.embed_dim, self.grid = embed_dim, img_size // patch_size
        self.patch_embed = nn.Conv2d(3, embed_dim, patch_size, patch_size)
        self.cls_token, self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dim)), nn.Parameter(torch.zeros(1, embed_dim))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + self.grid**2, embed_dim))
        self.blocks = nn.Sequential(*(Block(embed_dim, num_heads, drop_path_rate, init_values) for _ in range(depth)))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)

    def positions(self, rows, columns):
        if rows == columns == self.grid:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].float().view(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        patches = F.interpolate(grid, size=(rows, columns), mode="bicubic", antialias=False)
        return torch.cat((self.pos_embed[:, :1], patches.flatten(2).transpose(1, 2)), 1)

    def forward(self, x, masks=None, is_training=True):
        x = self.patch_embed(x)
        rows, columns = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        if masks is not None:
            x = torch.where(masks.unsqueeze(-1), self.mask_token.to(x.dtype).unsqueeze(0), x)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1) + self.positions(rows, columns)
        x = self.norm(self.blocks(x))
        return {"x_norm_clstoken": x[:, 0], "x_norm_patchtokens": x[:, 1:]}


class DINOHead(nn.Module):
    def __init__(self, in_dim, out_dim, hidden_dim, bottleneck_dim, **_):
        super().__init__()
        layers = (nn.Linear(in_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, bottleneck_dim))
        self.mlp = nn.Sequential(*layers)
        self.last_layer = nn.utils.parametrizations.weight_norm(nn.Linear(bottleneck_dim, out_dim, bias=False))

    def forward(self, x):
        x = self.mlp(x)
        return self.last_layer(F.normalize(x, dim=-1, p=2, eps=1e-6 if x.dtype == torch.float16 else 1e-12))


@torch.no_grad()
def sinkhorn(scores, temperature, rows, iterations=3):
    q = torch.exp(scores.float() / temperature).t()
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(dim=1, keepdim=True)
        q /= len(q)
        q /= q.sum(dim=0, keepdim=True)
        q /= rows
    return (q * rows).t()


class DINOLoss(nn.Module):
    def __init__(self, out_dim):
        super().__init__()

    def sinkhorn_knopp_teacher(self, scores, temperature):
        return sinkhorn(scores, temperature, len(scores))

    def forward(self, students, teachers):
        total = 0
        for student in students:
            of_student = F.log_softmax(student / 0.1, dim=-1)
            for of_teacher in teachers:
                total = total - torch.sum(of_teacher * of_student, dim=-1).mean()
        return total


class iBOTPatchLoss(nn.Module):
    def __init__(self, out_dim):
        super().__init__()

    def sinkhorn_knopp_teacher(self, scores, temperature, n_masked_patches_tensor):
        return sinkhorn(scores, temperature, n_masked_patches_tensor)

    def forward_masked(self, student, teacher, student_masks_flat, n_masked_patches, masks_weight):
        loss = torch.sum(teacher * F.log_softmax(student / 0.1, dim=-1), dim=-1) * masks_weight
        return -loss[:n_masked_patches].sum() / student_masks_flat.shape[0]


class KoLeoLoss(nn.Module):
    def forward(self, x, eps=1e-8):
        with torch.autocast(x.device.type, enabled=False):
            x = F.normalize(x, eps=eps, p=2, dim=-1)
            dots = torch.mm(x, x.t())
            dots.view(-1)[:: len(x) + 1].fill_(-1)
            nearest = x[dots.argmax(dim=1)]
            return -torch.log(F.pairwise_distance(x, nearest, 2, eps=eps) + eps).mean()
