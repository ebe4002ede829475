/* SPDX-License-Identifier: MIT */
/* What a fuzzer calls: libFuzzer, AFL++ or, for files that there are already, fuzz-main.c. */
#ifndef MS_TEST_FUZZ_H
#define MS_TEST_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
