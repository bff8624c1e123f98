// Matrix products, written once over the vectors S of an instruction set.
//
// The method is Goto and van de Geijn's (ACM Transactions on Mathematical Software 34(3), 2008): both factors
// are copied into panels whose values lie in the order in which the innermost loop reads them, blocks of
// panels stay in the caches, and a tile of the product stays in registers. A panel of R lanes holds the
// values of all R at its first inner index, then at its second, and so on; lanes that do not exist are 0.
// bfloat16 becomes float on the way into a panel, so it costs nothing more.
//
// Left panels have S::tile_rows lanes, right ones two vectors. The lengths below were found on Zen 3 (32 KiB,
// 512 KiB and a share of 32 MiB of cache) and are kept for all: each factor's block of panels by itself fits
// such a second-level cache. Blocks half or twice as long were no faster there.
#pragma once

#include "product.hpp"
#include "row_pass.hpp"

namespace {

using cotbal::Bfloat16;
using cotbal::Factor;
using cotbal::Product;
using cotbal::ProductPlan;

// Inner indices of a panel.
constexpr int64_t inner_block = 512;
// Left lanes that one right panel is multiplied by before the next: their panels stay in the second-level
// cache.
constexpr int64_t left_block = 144;
// Lanes of the factor that is not shared in one piece of work; fewer where there are too few for all threads.
constexpr int64_t local_right_lanes = 192;
constexpr int64_t local_left_lanes = 144;
// Floats of the shared panels, unless one block has more: a part of the last-level cache.
constexpr int64_t shared_floats = 1 << 20;
// How many inner indices ahead a factor is fetched whose lanes lie together: each index is another memory
// page.
constexpr int64_t fetch_ahead = 24;

// Storing a panel's last values may write past them by less than a vector; panels begin on cache lines.
constexpr int64_t panel_slack = 16;

template <class S>
constexpr int left_lanes = S::tile_rows;
template <class S>
constexpr int right_lanes = 2 * S::width;

inline int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}
inline int64_t pieces_of(int64_t count, int64_t size) {
    return (count + size - 1) / size;
}
inline int64_t multiple_of(int64_t count, int64_t size) {
    return pieces_of(count, size) * size;
}

inline int64_t panel_stride(int64_t lanes, int64_t block_length) {
    return multiple_of(lanes * block_length + panel_slack, panel_slack);
}

// `panels` panels from lane `lane` on, of a factor whose lanes lie together.
template <class S, class T, int R>
inline void pack_along_lanes(const Factor& factor, int64_t lane, int64_t panels, int64_t first, int64_t count,
                             float* out, int64_t out_stride) {
    constexpr int64_t reach = (R + S::width - 1) / S::width * S::width;
    constexpr int64_t line = 64 / sizeof(T);
    const int64_t there = factor.lanes - lane;
    // Of these even the last vector lies within the row; its surplus lanes are overwritten by the next index.
    const int64_t whole = there < reach ? 0 : least(panels, (there - reach) / R + 1);
    const T* source = static_cast<const T*>(factor.data) + first * factor.inner_stride + lane;
    for (int64_t k = 0; k < count; ++k, source += factor.inner_stride) {
        if (k + fetch_ahead < count) {
            const T* ahead = source + fetch_ahead * factor.inner_stride;
            for (int64_t j = 0; j < least(panels * R, there); j += line) {
                __builtin_prefetch(ahead + j);
            }
        }
        float* to = out + k * R;
        for (int64_t panel = 0; panel < whole; ++panel, to += out_stride) {
            for (int j = 0; j < R; j += S::width) {
                S::store(to + j, S::load(source + panel * R + j));
            }
        }
        for (int64_t panel = whole; panel < panels; ++panel, to += out_stride) {
            for (int j = 0; j < R; j += S::width) {
                const int64_t part = least(least(S::width, R - j), there - panel * R - j);
                S::store(to + j, part <= 0 ? S::set(0.0f)
                                           : S::load_partial(source + panel * R + j, static_cast<int>(part)));
            }
        }
    }
}

// One panel of a factor whose inner indices lie together.
template <class S, class T, int R>
inline void pack_along_inner(const Factor& factor, int64_t lane, int64_t first, int64_t count, float* out) {
    constexpr int groups = (R + S::width - 1) / S::width;
    const int64_t there = least(R, factor.lanes - lane);
    const T* source = static_cast<const T*>(factor.data) + lane * factor.lane_stride + first;
    for (int64_t k = 0; k < count; k += S::width) {
        const int part = static_cast<int>(least(S::width, count - k));
        typename S::Float values[groups][S::width];
        for (int group = 0; group < groups; ++group) {
            for (int j = 0; j < S::width; ++j) {
                const int64_t row = group * S::width + j;
                values[group][j] = S::set(0.0f);
                if (row < there) {
                    const T* from = source + row * factor.lane_stride + k;
                    values[group][j] = part == S::width ? S::load(from) : S::load_partial(from, part);
                }
            }
            S::transpose(values[group]);
        }
        // In this order a vector's surplus lanes are overwritten by the next index.
        for (int j = 0; j < part; ++j) {
            for (int group = 0; group < groups; ++group) {
                S::store(out + (k + j) * R + group * S::width, values[group][j]);
            }
        }
    }
}

template <class S, class T, int R>
inline void pack_as(const Factor& factor, int64_t lane, int64_t panels, int64_t first, int64_t count,
                    float* out, int64_t out_stride) {
    if (factor.lane_stride == 1) {
        pack_along_lanes<S, T, R>(factor, lane, panels, first, count, out, out_stride);
        return;
    }
    for (int64_t panel = 0; panel < panels; ++panel) {
        pack_along_inner<S, T, R>(factor, lane + panel * R, first, count, out + panel * out_stride);
    }
}

template <class S, int R>
inline void pack(const Factor& factor, int64_t lane, int64_t panels, int64_t first, int64_t count, float* out,
                 int64_t out_stride) {
    if (factor.is_bfloat16) {
        pack_as<S, Bfloat16, R>(factor, lane, panels, first, count, out, out_stride);
    } else {
        pack_as<S, float, R>(factor, lane, panels, first, count, out, out_stride);
    }
}

// One tile of the output (+)= a left panel times a right panel.
template <class S>
inline void tile(int64_t count, const float* left, const float* right, float* out, int64_t out_stride,
                 bool accumulate) {
    constexpr int rows = left_lanes<S>;
    typename S::Float low[rows];
    typename S::Float high[rows];
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
        low[i] = S::set(0.0f);
        high[i] = S::set(0.0f);
        __builtin_prefetch(out + i * out_stride, 1);
        __builtin_prefetch(out + i * out_stride + right_lanes<S> - 1, 1);
    }
#pragma GCC unroll 4
    for (int64_t k = 0; k < count; ++k) {
        const typename S::Float right_low = S::load(right);
        const typename S::Float right_high = S::load(right + S::width);
#pragma GCC unroll 16
        for (int i = 0; i < rows; ++i) {
            const typename S::Float value = S::set(left[i]);
            low[i] = S::fmadd(value, right_low, low[i]);
            high[i] = S::fmadd(value, right_high, high[i]);
        }
        left += rows;
        right += right_lanes<S>;
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
        float* to = out + i * out_stride;
        if (accumulate) {
            low[i] = S::add(S::load(to), low[i]);
            high[i] = S::add(S::load(to + S::width), high[i]);
        }
        S::store(to, low[i]);
        S::store(to + S::width, high[i]);
    }
}

// A tile of which only some rows and columns exist.
template <class S>
inline void edge_tile(int64_t count, const float* left, const float* right, float* out, int64_t out_stride,
                      bool accumulate, int64_t rows, int64_t columns) {
    alignas(64) float whole[left_lanes<S> * right_lanes<S>];
    tile<S>(count, left, right, whole, right_lanes<S>, false);
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < columns; ++j) {
            float& to = out[i * out_stride + j];
            const float value = whole[i * right_lanes<S> + j];
            to = accumulate ? to + value : value;
        }
    }
}

// rows x columns of the output (+)= a block of left panels times a block of right panels.
template <class S>
inline void multiply_block(int64_t count, const float* left, int64_t left_stride, int64_t rows,
                           const float* right, int64_t right_stride, int64_t columns, float* out,
                           int64_t out_stride, bool accumulate) {
    constexpr int64_t step = left_block / left_lanes<S> * left_lanes<S>;
    for (int64_t top = 0; top < rows; top += step) {
        for (int64_t column = 0; column < columns; column += right_lanes<S>) {
            const float* right_panel = right + column / right_lanes<S> * right_stride;
            const int64_t wide = least(right_lanes<S>, columns - column);
            for (int64_t row = top; row < least(rows, top + step); row += left_lanes<S>) {
                const float* left_panel = left + row / left_lanes<S> * left_stride;
                const int64_t tall = least(left_lanes<S>, rows - row);
                float* to = out + row * out_stride + column;
                if (tall == left_lanes<S> && wide == right_lanes<S>) {
                    tile<S>(count, left_panel, right_panel, to, out_stride, accumulate);
                } else {
                    edge_tile<S>(count, left_panel, right_panel, to, out_stride, accumulate, tall, wide);
                }
            }
        }
    }
}

template <class S>
inline ProductPlan plan_product(const Product& product, int threads) {
    ProductPlan plan;
    // The smaller factor is packed for all, once; the larger one is packed only once if the threads share it
    // out.
    plan.left_is_shared = product.left.lanes <= product.right.lanes;
    const Factor& shared = plan.left_is_shared ? product.left : product.right;
    const Factor& local = plan.left_is_shared ? product.right : product.left;
    const int64_t shared_lanes = plan.left_is_shared ? left_lanes<S> : right_lanes<S>;
    const int64_t local_lanes = plan.left_is_shared ? right_lanes<S> : left_lanes<S>;

    const int64_t blocks = pieces_of(product.inner, inner_block);
    plan.block_length = pieces_of(product.inner, blocks);
    plan.shared_panels = pieces_of(shared.lanes, shared_lanes);
    const int64_t block_size = plan.shared_panels * panel_stride(shared_lanes, plan.block_length);
    const int64_t fitting = block_size < shared_floats ? shared_floats / block_size : 1;
    // A narrow output is rounded once, so its sums are made in one go.
    const int64_t slab_blocks = product.out_is_bfloat16 ? blocks : least(blocks, fitting);
    plan.slab = slab_blocks * plan.block_length;
    plan.shared_size = slab_blocks * block_size;

    const int64_t goal = plan.left_is_shared ? local_right_lanes : local_left_lanes;
    const int64_t pieces = multiple_of(pieces_of(local.lanes, goal), threads);
    plan.piece_lanes = multiple_of(pieces_of(local.lanes, pieces), local_lanes);
    plan.pieces = pieces_of(local.lanes, plan.piece_lanes);
    plan.local_size = plan.piece_lanes / local_lanes * panel_stride(local_lanes, plan.block_length);
    if (product.out_is_bfloat16) {
        plan.local_size +=
            multiple_of(plan.piece_lanes, panel_slack) * multiple_of(shared.lanes, panel_slack);
    }
    return plan;
}

// The shared panels of one block of inner indices: those of a block lie together, as they are used together.
inline float* shared_block(const Product& product, const ProductPlan& plan, int64_t stride, int64_t inner) {
    return product.shared + inner / plan.block_length * plan.shared_panels * stride;
}

template <class S, int R>
inline void pack_shared_panels(const Product& product, const ProductPlan& plan, const Factor& factor,
                               int64_t first, int64_t begin, int64_t end) {
    const int64_t slab = least(plan.slab, product.inner - first);
    const int64_t stride = panel_stride(R, plan.block_length);
    for (int64_t inner = 0; inner < slab; inner += plan.block_length) {
        pack<S, R>(factor, begin * R, end - begin, first + inner, least(plan.block_length, slab - inner),
                   shared_block(product, plan, stride, inner) + begin * stride, stride);
    }
}

template <class S>
inline void pack_shared(const Product& product, const ProductPlan& plan, int64_t first, int64_t begin,
                        int64_t end) {
    if (plan.left_is_shared) {
        pack_shared_panels<S, left_lanes<S>>(product, plan, product.left, first, begin, end);
    } else {
        pack_shared_panels<S, right_lanes<S>>(product, plan, product.right, first, begin, end);
    }
}

template <class S>
inline void round_rows(const float* from, int64_t from_stride, Bfloat16* to, int64_t to_stride, int64_t rows,
                       int64_t columns) {
    for (int64_t i = 0; i < rows; ++i, from += from_stride, to += to_stride) {
        int64_t j = 0;
        for (; j + S::width <= columns; j += S::width) {
            S::store(to + j, S::load(from + j));
        }
        if (j < columns) {
            const int rest = static_cast<int>(columns - j);
            S::store_partial(to + j, S::load_partial(from + j, rest), rest);
        }
    }
}

template <class S>
inline void multiply_piece(const Product& product, const ProductPlan& plan, int64_t first, int64_t piece,
                           float* local) {
    const int64_t left_stride = panel_stride(left_lanes<S>, plan.block_length);
    const int64_t right_stride = panel_stride(right_lanes<S>, plan.block_length);
    const int64_t slab = least(plan.slab, product.inner - first);
    const int64_t lane = piece * plan.piece_lanes;
    const int64_t place = plan.left_is_shared ? lane : lane * product.out_stride;
    int64_t rows = product.left.lanes;
    int64_t columns = product.right.lanes;
    int64_t& own_lanes = plan.left_is_shared ? columns : rows;
    own_lanes = least(plan.piece_lanes, own_lanes - lane);

    float* out;
    int64_t out_stride;
    if (product.out_is_bfloat16) {
        out = local + (plan.left_is_shared ? plan.piece_lanes / right_lanes<S> * right_stride
                                           : plan.piece_lanes / left_lanes<S> * left_stride);
        out_stride = multiple_of(columns, panel_slack);
    } else {
        out = static_cast<float*>(product.out) + place;
        out_stride = product.out_stride;
    }
    for (int64_t inner = 0; inner < slab; inner += plan.block_length) {
        const int64_t count = least(plan.block_length, slab - inner);
        const bool accumulate = product.accumulate || first + inner > 0;
        const float* left = local;
        const float* right = local;
        if (plan.left_is_shared) {
            pack<S, right_lanes<S>>(product.right, lane, pieces_of(columns, right_lanes<S>), first + inner,
                                    count, local, right_stride);
            left = shared_block(product, plan, left_stride, inner);
        } else {
            pack<S, left_lanes<S>>(product.left, lane, pieces_of(rows, left_lanes<S>), first + inner, count,
                                   local, left_stride);
            right = shared_block(product, plan, right_stride, inner);
        }
        multiply_block<S>(count, left, left_stride, rows, right, right_stride, columns, out, out_stride,
                          accumulate);
    }
    if (product.out_is_bfloat16) {
        round_rows<S>(out, out_stride, static_cast<Bfloat16*>(product.out) + place, product.out_stride, rows,
                      columns);
    }
}

template <class S>
inline void multiply(const Product& product, const ProductPlan& plan, int64_t first, int64_t begin,
                     int64_t end, float* local) {
    for (int64_t piece = begin; piece < end; ++piece) {
        multiply_piece<S>(product, plan, first, piece, local);
    }
}

}  // namespace
