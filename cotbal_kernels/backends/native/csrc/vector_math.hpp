// exp and tanh over the vectors of one instruction set.
//
// Error bounds (u = 2^-24, half an ulp): the polynomials are minimax fits made for this file, so the sums
// below are dominated by roundings, not by the fits. Tests check every bound over the whole range.
#pragma once

namespace {

// e^x for x <= 0 or NaN; 0 below -87.7, where e^x is no normal float.
//
// x = n ln 2 + r with |r| <= ln(2) / 2, and e^r = 1 + (r + r^2 q(r)): the fit is off by 0.05 u, r by 0.5 u
// (ln 2 in two parts, the first short enough that n times it is exact), the bracket by 0.7 u and the last
// sum by at most 1 u: under 1.25 ulp in all.
template <class S>
inline typename S::Float exp_nonpositive(typename S::Float x) {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum; 127 more is the exponent's
    // bias, so that a shift alone makes 2^n of it, and 0 for n = -127.
    const typename S::Float shifter = S::set(12582912.0f + 127.0f);
    x = S::max(S::set(-88.0f), x);
    const typename S::Float shifted = S::fmadd(x, S::set(1.44269504088896341f), shifter);
    const typename S::Float n = S::sub(shifted, shifter);
    typename S::Float r = S::fmadd(n, S::set(-0.693359375f), x);
    r = S::fmadd(n, S::set(2.12194440054690583e-4f), r);
    typename S::Float q = S::set(0x1.6a215ap-10f);
    q = S::fmadd(q, r, S::set(0x1.123b9ap-7f));
    q = S::fmadd(q, r, S::set(0x1.5558fcp-5f));
    q = S::fmadd(q, r, S::set(0x1.555490p-3f));
    q = S::fmadd(q, r, S::set(0x1.fffffcp-2f));
    q = S::fmadd(S::mul(r, r), q, r);
    return S::mul(S::add(q, S::set(1.0f)), S::low_bits_to_exponent(shifted));
}

template <class S>
struct Tanh {
    typename S::Float value;
    typename S::Float slope;  // 1 - tanh^2
};

// An odd polynomial up to |x| = 0.625, where 1 - e^(-2|x|) would cancel; (1 - e) / (1 + e) beyond, whose
// slope 4 e / (1 + e)^2 keeps its relative accuracy where 1 - tanh^2 would lose it.
template <class S>
inline Tanh<S> tanh_and_slope(typename S::Float x) {
    const typename S::Float one = S::set(1.0f);
    const typename S::Float square = S::mul(x, x);
    typename S::Float p = S::set(-0.0056647753603467675f);
    p = S::fmadd(p, square, S::set(0.020615996170324776f));
    p = S::fmadd(p, square, S::set(-0.053738624243650265f));
    p = S::fmadd(p, square, S::set(0.13331541957735873f));
    p = S::fmadd(p, square, S::set(-0.33333292551000043f));
    const typename S::Float near = S::fmadd(S::mul(x, square), p, x);
    const typename S::Float near_slope = S::sub(one, S::mul(near, near));

    const typename S::Float magnitude = S::abs(x);
    const typename S::Float e = exp_nonpositive<S>(S::mul(S::set(-2.0f), magnitude));
    const typename S::Float inverse = S::div(one, S::add(one, e));
    const typename S::Float far = S::copy_sign(S::mul(S::sub(one, e), inverse), x);
    const typename S::Float far_slope = S::mul(S::mul(S::set(4.0f), e), S::mul(inverse, inverse));

    return {S::select_less(magnitude, S::set(0.625f), near, far),
            S::select_less(magnitude, S::set(0.625f), near_slope, far_slope)};
}

}  // namespace
