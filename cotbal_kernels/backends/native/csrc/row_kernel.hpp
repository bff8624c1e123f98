// The row pass, written once over the vectors S of an instruction set.
//
// Everything has internal linkage and nothing of the standard library's templates is used: what this header
// compiles to in one translation unit must never serve another that is compiled for a lesser processor.
//
// S has `Float` (a vector of `width` floats) and the operations used below. `max(a, b)` is b when either
// is NaN, which makes maxima pass over NaN while exponentials keep it.
#pragma once

#include <math.h>
#include <string.h>

#include "row_pass.hpp"
#include "vector_math.hpp"

namespace {

using cotbal::Bfloat16;
using cotbal::RowPass;

// One block of logits and its copy stay in the first-level cache, and a float sum over it has at most
// block / (4 width) terms a lane; sums over blocks are double.
constexpr int block_columns = 1024;

struct Plain {};   // z = logit
struct Scaled {};  // z = logit_scale * logit
struct Capped {};  // z = softcap * tanh(scaled / softcap)

template <class A, class B>
struct Same {
    static constexpr bool value = false;
};
template <class A>
struct Same<A, A> {
    static constexpr bool value = true;
};

struct alignas(64) Block {
    float logits[block_columns];
    float slopes[block_columns];  // d z / d scaled, kept for capped logits only
};

template <class S, class Transform>
struct Transformed {
    typename S::Float z;
    typename S::Float slope;
};

template <class S, class Transform>
inline Transformed<S, Transform> transform(const RowPass& pass, typename S::Float x) {
    if constexpr (Same<Transform, Plain>::value) {
        return {x, x};
    } else {
        const typename S::Float z = S::mul(S::set(static_cast<float>(pass.logit_scale)), x);
        if constexpr (Same<Transform, Scaled>::value) {
            return {z, z};
        } else {
            const typename S::Float cap = S::set(static_cast<float>(pass.softcap));
            const Tanh<S> t = tanh_and_slope<S>(S::div(z, cap));
            return {S::mul(cap, t.value), t.slope};
        }
    }
}

// Columns first .. first+count-1 of a row as float z, filled with -inf up to whole vectors.
template <class S, class T, class Transform>
inline const float* load_block(const RowPass& pass, const T* row, int64_t first, int count, Block& block) {
    constexpr bool in_place = Same<T, float>::value && Same<Transform, Plain>::value;
    if constexpr (in_place) {
        if (count % S::width == 0) {
            return row + first;
        }
    }
    const int whole = count - count % S::width;
    const T* x = row + first;
    for (int j = 0; j < whole; j += S::width) {
        const Transformed<S, Transform> t = transform<S, Transform>(pass, S::load(x + j));
        S::store(block.logits + j, t.z);
        if constexpr (Same<Transform, Capped>::value) {
            S::store(block.slopes + j, t.slope);
        }
    }
    if (whole < count) {
        const int rest = count - whole;
        const Transformed<S, Transform> t = transform<S, Transform>(pass, S::load_partial(x + whole, rest));
        S::store(block.logits + whole, t.z);
        if constexpr (Same<Transform, Capped>::value) {
            S::store(block.slopes + whole, t.slope);
        }
        for (int j = count; j < whole + S::width; ++j) {
            block.logits[j] = -INFINITY;
        }
    }
    return block.logits;
}

template <class S>
inline int round_up(int count) {
    return (count + S::width - 1) / S::width * S::width;
}

template <class S>
inline float maximum(const float* z, int count) {
    typename S::Float m0 = S::set(-INFINITY);
    typename S::Float m1 = m0;
    typename S::Float m2 = m0;
    typename S::Float m3 = m0;
    int j = 0;
    for (; j + 4 * S::width <= count; j += 4 * S::width) {
        m0 = S::max(S::load(z + j), m0);
        m1 = S::max(S::load(z + j + S::width), m1);
        m2 = S::max(S::load(z + j + 2 * S::width), m2);
        m3 = S::max(S::load(z + j + 3 * S::width), m3);
    }
    for (; j < count; j += S::width) {
        m0 = S::max(S::load(z + j), m0);
    }
    return S::reduce_max(S::max(S::max(m0, m1), S::max(m2, m3)));
}

template <class S>
inline double sum_of_exp(const float* z, int count, float reference) {
    const typename S::Float shift = S::set(reference);
    typename S::Float s0 = S::set(0.0f);
    typename S::Float s1 = s0;
    typename S::Float s2 = s0;
    typename S::Float s3 = s0;
    int j = 0;
    for (; j + 4 * S::width <= count; j += 4 * S::width) {
        s0 = S::add(s0, exp_nonpositive<S>(S::sub(S::load(z + j), shift)));
        s1 = S::add(s1, exp_nonpositive<S>(S::sub(S::load(z + j + S::width), shift)));
        s2 = S::add(s2, exp_nonpositive<S>(S::sub(S::load(z + j + 2 * S::width), shift)));
        s3 = S::add(s3, exp_nonpositive<S>(S::sub(S::load(z + j + 3 * S::width), shift)));
    }
    for (; j < count; j += S::width) {
        s0 = S::add(s0, exp_nonpositive<S>(S::sub(S::load(z + j), shift)));
    }
    return S::reduce_add(S::add(S::add(s0, s1), S::add(s2, s3)));
}

struct Softmax {
    float max;
    double sum;          // of e^(z - max)
    int64_t best_block;  // the first maximum is in the block that starts here
};

template <class S, class T, class Transform>
inline Softmax reduce_row(const RowPass& pass, const T* row, Block& block) {
    Softmax state = {-INFINITY, 0.0, 0};
    for (int64_t first = 0; first < pass.columns; first += block_columns) {
        const int64_t left = pass.columns - first;
        const int count = left < block_columns ? static_cast<int>(left) : block_columns;
        const float* z = load_block<S, T, Transform>(pass, row, first, count, block);
        const float block_max = maximum<S>(z, round_up<S>(count));
        if (block_max > state.max) {
            state.sum *= ::exp(static_cast<double>(state.max) - static_cast<double>(block_max));
            state.max = block_max;
            state.best_block = first;
        }
        // While every logit has been -inf there is no maximum to subtract; 0 keeps their terms 0.
        const float reference = state.max == -INFINITY ? 0.0f : state.max;
        state.sum += sum_of_exp<S>(z, round_up<S>(count), reference);
    }
    return state;
}

// Whether the first maximum of the row (its first NaN, if it has one) is the target.
template <class S, class T, class Transform>
inline bool is_hit(const RowPass& pass, const T* row, const Softmax& softmax, int64_t target, float z_target,
                   Block& block) {
    if (softmax.sum != softmax.sum) {
        for (int64_t first = 0; first < pass.columns; first += block_columns) {
            const int64_t left = pass.columns - first;
            const int count = left < block_columns ? static_cast<int>(left) : block_columns;
            const float* z = load_block<S, T, Transform>(pass, row, first, count, block);
            for (int j = 0; j < count; ++j) {
                if (z[j] != z[j]) {
                    return first + j == target;
                }
            }
        }
    }
    const int64_t offset = target - softmax.best_block;
    if (z_target != softmax.max || offset < 0 || offset >= block_columns) {
        return false;
    }
    const int64_t left = pass.columns - softmax.best_block;
    const int count = left < block_columns ? static_cast<int>(left) : block_columns;
    const float* z = load_block<S, T, Transform>(pass, row, softmax.best_block, count, block);
    for (int64_t j = 0; j < offset; ++j) {
        if (z[j] == softmax.max) {
            return false;
        }
    }
    return true;
}

// gradient = coefficient * e^(z - max) * slope over the whole row; `row` may be `gradient`.
template <class S, class T, class Transform>
inline void write_softmax(const RowPass& pass, const T* row, T* gradient, float max, float coefficient,
                          Block& block) {
    const typename S::Float shift = S::set(max);
    const typename S::Float factor = S::set(coefficient);
    for (int64_t first = 0; first < pass.columns; first += block_columns) {
        const int64_t left = pass.columns - first;
        const int count = left < block_columns ? static_cast<int>(left) : block_columns;
        const float* z = load_block<S, T, Transform>(pass, row, first, count, block);
        T* out = gradient + first;
        const auto entry = [&](int j) {
            const typename S::Float g = S::mul(factor, exp_nonpositive<S>(S::sub(S::load(z + j), shift)));
            if constexpr (Same<Transform, Capped>::value) {
                return S::mul(g, S::load(block.slopes + j));
            } else {
                return g;
            }
        };
        const int whole = count - count % S::width;
        int j = 0;
        for (; j + 2 * S::width <= whole; j += 2 * S::width) {
            const typename S::Float g0 = entry(j);
            const typename S::Float g1 = entry(j + S::width);
            S::store(out + j, g0);
            S::store(out + j + S::width, g1);
        }
        for (; j < whole; j += S::width) {
            S::store(out + j, entry(j));
        }
        if (whole < count) {
            S::store_partial(out + whole, entry(whole), count - whole);
        }
    }
}

struct Moments {
    double sum;     // of z
    double moment;  // of (z - max) e^(z - max)
};

// A pass of its own over a row that the cache still holds: who asks for no terms pays nothing for them.
template <class S, class T, class Transform>
inline Moments moments_of(const RowPass& pass, const T* row, float max, Block& block) {
    Moments made = {0.0, 0.0};
    const float reference = max == -INFINITY ? 0.0f : max;
    const typename S::Float shift = S::set(reference);
    const typename S::Float least = S::set(-88.0f);  // whose exponential is 0
    for (int64_t first = 0; first < pass.columns; first += block_columns) {
        const int64_t left = pass.columns - first;
        const int count = left < block_columns ? static_cast<int>(left) : block_columns;
        const float* z = load_block<S, T, Transform>(pass, row, first, count, block);
        typename S::Float sum = S::set(0.0f);
        typename S::Float moment = sum;
        const int whole = count - count % S::width;
        for (int j = 0; j < whole; j += S::width) {
            sum = S::add(sum, S::load(z + j));
        }
        made.sum += S::reduce_add(sum);
        for (int j = whole; j < count; ++j) {
            made.sum += static_cast<double>(z[j]);
        }
        for (int j = 0; j < round_up<S>(count); j += S::width) {
            const typename S::Float away = S::max(least, S::sub(S::load(z + j), shift));
            moment = S::fmadd(away, exp_nonpositive<S>(away), moment);
        }
        made.moment += S::reduce_add(moment);
    }
    return made;
}

// The coefficients of a row's gradient: p (softmax + entropy log p) - target onehot - constant.
struct Coefficients {
    double softmax;
    double target;
    double entropy;
    double constant;
};

inline Coefficients coefficients_of(const RowPass& pass, int64_t i, double scale, double lse) {
    const cotbal::RowTerms& terms = pass.terms;
    Coefficients made = {scale * (1.0 + 2.0 * terms.lse_square_scale * lse),
                         scale * (1.0 - terms.label_smoothing), 0.0,
                         scale * terms.label_smoothing / static_cast<double>(pass.columns)};
    if (terms.softmax_shift != nullptr) {
        made.softmax += static_cast<double>(terms.softmax_shift[i]);
    }
    if (terms.target_shift != nullptr) {
        made.target += static_cast<double>(terms.target_shift[i]);
    }
    if (terms.entropy_scale != nullptr) {
        made.entropy = static_cast<double>(terms.entropy_scale[i]);
    }
    return made;
}

// The gradient of a row with terms; `row` may be `gradient`.
template <class S, class T, class Transform>
inline void write_terms(const RowPass& pass, const T* row, T* gradient, const Softmax& softmax,
                        const Coefficients& with, Block& block) {
    const double log_sum = ::log(softmax.sum);
    const typename S::Float shift = S::set(softmax.max);
    const typename S::Float least = S::set(-88.0f);
    const double scale = pass.logit_scale;
    const typename S::Float factor =
        S::set(static_cast<float>(scale * (with.softmax - with.entropy * log_sum) / softmax.sum));
    const typename S::Float slant = S::set(static_cast<float>(scale * with.entropy / softmax.sum));
    const typename S::Float constant = S::set(static_cast<float>(scale * with.constant));
    for (int64_t first = 0; first < pass.columns; first += block_columns) {
        const int64_t left = pass.columns - first;
        const int count = left < block_columns ? static_cast<int>(left) : block_columns;
        const float* z = load_block<S, T, Transform>(pass, row, first, count, block);
        T* out = gradient + first;
        const auto entry = [&](int j) {
            const typename S::Float away = S::max(least, S::sub(S::load(z + j), shift));
            const typename S::Float e = exp_nonpositive<S>(away);
            const typename S::Float g = S::sub(S::mul(e, S::fmadd(slant, away, factor)), constant);
            if constexpr (Same<Transform, Capped>::value) {
                return S::mul(g, S::load(block.slopes + j));
            } else {
                return g;
            }
        };
        const int whole = count - count % S::width;
        for (int j = 0; j < whole; j += S::width) {
            S::store(out + j, entry(j));
        }
        if (whole < count) {
            S::store_partial(out + whole, entry(whole), count - whole);
        }
    }
}

template <class S, class T, class Transform>
inline void row_with_terms(const RowPass& pass, int64_t i, const T* row, T* gradient, const Softmax& softmax,
                           const Transformed<S, Transform>& true_class, Block& block) {
    const cotbal::RowTerms& terms = pass.terms;
    const double log_sum = ::log(softmax.sum);
    const double lse = static_cast<double>(softmax.max) + log_sum;
    if (terms.mean != nullptr || terms.entropy != nullptr) {
        const Moments moments = moments_of<S, T, Transform>(pass, row, softmax.max, block);
        if (terms.mean != nullptr) {
            terms.mean[i] = static_cast<float>(moments.sum / static_cast<double>(pass.columns));
        }
        if (terms.entropy != nullptr) {
            terms.entropy[i] = static_cast<float>(log_sum - moments.moment / softmax.sum);
        }
    }
    if (terms.lse != nullptr) {
        terms.lse[i] = static_cast<float>(lse);
    }
    if (terms.peak != nullptr) {
        terms.peak[i] = softmax.max;
    }
    if (gradient == nullptr) {
        return;
    }
    const double row_scale = pass.row_scale == nullptr ? 1.0 : static_cast<double>(pass.row_scale[i]);
    const Coefficients with = coefficients_of(pass, i, row_scale, lse);
    write_terms<S, T, Transform>(pass, row, gradient, softmax, with, block);
    const double away = static_cast<double>(S::first(true_class.z)) - static_cast<double>(softmax.max);
    const float e = S::first(exp_nonpositive<S>(S::set(static_cast<float>(away))));
    const double p = static_cast<double>(e) / softmax.sum;
    const double surprise = p > 0.0 ? with.entropy * p * (away - log_sum) : 0.0;
    double entry = pass.logit_scale * (with.softmax * p + surprise - with.target - with.constant);
    if constexpr (Same<Transform, Capped>::value) {
        entry *= static_cast<double>(S::first(true_class.slope));
    }
    S::store_partial(gradient + pass.targets[i], S::set(static_cast<float>(entry)), 1);
}

inline void clear_terms(const cotbal::RowTerms& terms, int64_t i) {
    float* const written[] = {terms.lse, terms.mean, terms.entropy, terms.peak};
    for (float* vector : written) {
        if (vector != nullptr) {
            vector[i] = 0.0f;
        }
    }
}

template <class S, class T, class Transform>
inline void one_row(const RowPass& pass, int64_t i, Block& block) {
    const int64_t index = pass.rows == nullptr ? i : pass.rows[i];
    const T* row = static_cast<const T*>(pass.logits) + index * pass.logits_stride;
    T* gradient =
        pass.gradient == nullptr ? nullptr : static_cast<T*>(pass.gradient) + index * pass.gradient_stride;
    const int64_t target = pass.targets[i];
    if (target < 0) {
        pass.nll[i] = 0.0f;
        pass.hits[i] = false;
        clear_terms(pass.terms, i);
        if (gradient != nullptr) {
            memset(gradient, 0, static_cast<size_t>(pass.columns) * sizeof(T));
        }
        return;
    }
    const Transformed<S, Transform> true_class =
        transform<S, Transform>(pass, S::load_partial(row + target, 1));
    const float z_target = S::first(true_class.z);
    const Softmax softmax = reduce_row<S, T, Transform>(pass, row, block);

    pass.nll[i] = static_cast<float>(static_cast<double>(softmax.max) - static_cast<double>(z_target) +
                                     ::log(softmax.sum));
    pass.hits[i] = is_hit<S, T, Transform>(pass, row, softmax, target, z_target, block);
    if (pass.terms.present) {
        row_with_terms<S, T, Transform>(pass, i, row, gradient, softmax, true_class, block);
        return;
    }
    if (gradient == nullptr) {
        return;
    }
    const double scale =
        (pass.row_scale == nullptr ? 1.0 : static_cast<double>(pass.row_scale[i])) * pass.logit_scale;
    write_softmax<S, T, Transform>(pass, row, gradient, softmax.max, static_cast<float>(scale / softmax.sum),
                                   block);
    // The true class apart: p rounded to T before 1 is taken from it would lose all of a confident row.
    const float e = S::first(exp_nonpositive<S>(S::set(z_target - softmax.max)));
    double entry = scale * (static_cast<double>(e) / softmax.sum - 1.0);
    if constexpr (Same<Transform, Capped>::value) {
        entry *= static_cast<double>(S::first(true_class.slope));
    }
    S::store_partial(gradient + target, S::set(static_cast<float>(entry)), 1);
}

template <class S, class T, class Transform>
inline void rows_of(const RowPass& pass, int64_t begin, int64_t end) {
    Block block;
    for (int64_t i = begin; i < end; ++i) {
        one_row<S, T, Transform>(pass, i, block);
    }
}

template <class S, class T>
inline void rows_of_type(const RowPass& pass, int64_t begin, int64_t end) {
    if (pass.softcap != 0.0) {
        rows_of<S, T, Capped>(pass, begin, end);
    } else if (pass.logit_scale != 1.0) {
        rows_of<S, T, Scaled>(pass, begin, end);
    } else {
        rows_of<S, T, Plain>(pass, begin, end);
    }
}

template <class S>
inline void row_pass(const RowPass& pass, int64_t begin, int64_t end) {
    if (pass.is_bfloat16) {
        rows_of_type<S, Bfloat16>(pass, begin, end);
    } else {
        rows_of_type<S, float>(pass, begin, end);
    }
}

template <class S>
inline void elementwise(cotbal::Elementwise function, const float* input, float* output, int64_t count) {
    for (int64_t j = 0; j < count; j += S::width) {
        const int rest = count - j < S::width ? static_cast<int>(count - j) : S::width;
        const typename S::Float x = S::load_partial(input + j, rest);
        const typename S::Float y =
            function == cotbal::Elementwise::exp ? exp_nonpositive<S>(x) : tanh_and_slope<S>(x).value;
        S::store_partial(output + j, y, rest);
    }
}

}  // namespace
