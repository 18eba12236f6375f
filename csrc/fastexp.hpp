// exp over an array, in lanes the compiler can vectorise; error below 1.5 ulp on [-708, 0].
#pragma once

#include <cstdint>
#include <cstring>

namespace sectow {

// exp(x) for x <= 0; 0 below -708 (the smallest normal double is exp(-708.4)), -inf included.
// Cody-Waite reduction and a Taylor polynomial: every step is the same IEEE operation on every
// machine (the build sets -ffp-contract=off), so that a seed gives the same token everywhere.
inline double exp_nonpositive(double x) {
  const double bounded = x < -708.0 ? -708.0 : x;
  // Adding 1.5 * 2^52 rounds to an integer, which is then in the low bits.
  const double shifted = bounded * 1.4426950408889634 + 0x1.8p52;
  const double k = shifted - 0x1.8p52;
  const double r = (bounded - k * 0x1.62e42feep-1) - k * 0x1.a39ef35793c76p-33;
  double p = 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  uint64_t bits, power;
  std::memcpy(&bits, &shifted, sizeof bits);
  std::memcpy(&power, &p, sizeof power);
  power += bits << 52;
  double result;
  std::memcpy(&result, &power, sizeof result);
  return x < -708.0 ? 0.0 : result;
}

}  // namespace sectow
