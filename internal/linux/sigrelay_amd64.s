#include "textflag.h"

// The signal handler: write(relayFD, &sig, 1). It runs on the signal stack of
// whatever thread the kernel picked, at any moment, so it touches nothing of Go.
// A full pipe loses the signal, as a pending one is lost when it comes twice.
TEXT relay<>(SB), NOSPLIT|NOFRAME, $0
	SUBQ $16, SP
	MOVQ DI, 0(SP)         // the number, little endian: its first byte
	MOVQ ·relayFD(SB), DI
	MOVQ SP, SI
	MOVL $1, DX
	MOVL $1, AX            // write
	SYSCALL
	ADDQ $16, SP
	RET                    // to the restorer

TEXT restorer<>(SB), NOSPLIT|NOFRAME, $0
	MOVL $15, AX           // rt_sigreturn
	SYSCALL
	INT  $3

// func relayHandler() uintptr
TEXT ·relayHandler(SB), NOSPLIT, $0-8
	LEAQ relay<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// func relayRestorer() uintptr
TEXT ·relayRestorer(SB), NOSPLIT, $0-8
	LEAQ restorer<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET
