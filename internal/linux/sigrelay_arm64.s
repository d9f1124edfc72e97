#include "textflag.h"

// See sigrelay_amd64.s.
TEXT relay<>(SB), NOSPLIT|NOFRAME, $0
	SUB  $16, RSP
	MOVD R0, 0(RSP)
	MOVD ·relayFD(SB), R0
	MOVD RSP, R1
	MOVD $1, R2
	MOVD $64, R8           // write
	SVC
	ADD  $16, RSP
	RET

TEXT restorer<>(SB), NOSPLIT|NOFRAME, $0
	MOVD $139, R8          // rt_sigreturn
	SVC
	BRK

// func relayHandler() uintptr
TEXT ·relayHandler(SB), NOSPLIT, $0-8
	MOVD $relay<>(SB), R0
	MOVD R0, ret+0(FP)
	RET

// func relayRestorer() uintptr
TEXT ·relayRestorer(SB), NOSPLIT, $0-8
	MOVD $restorer<>(SB), R0
	MOVD R0, ret+0(FP)
	RET
