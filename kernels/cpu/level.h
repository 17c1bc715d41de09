// Every file under ops/ is compiled once per instruction set ("level"); what it defines lives in
// the level's namespace. Such a file uses no inline function of the standard library that the
// linker could share between levels: a portable build must not end up with AVX-512 code.
#pragma once

#include <cstdint>

#ifndef HALUT_CPU_CAPABILITY
#error "compile with -DHALUT_CPU_CAPABILITY=portable|avx2|avx512|avx512vbmi"
#endif

#define HALUT_BEGIN namespace halut { namespace HALUT_CPU_CAPABILITY {
#define HALUT_END } }
