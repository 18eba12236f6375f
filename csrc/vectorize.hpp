// SECTOW_CLONES: compile a hot loop for several instruction sets and choose when the module loads,
// so that a portable wheel is fast too. Results do not depend on the choice (no contraction,
// no reordering); sanitizers cannot instrument the chooser, so they get one plain version.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define SECTOW_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SECTOW_CLONES
#endif
