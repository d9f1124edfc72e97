#include "textflag.h"

// The interpreter for arm64; see interp_amd64.s for what it does.
//
//	R19  the data header: +0 first op, +8 sync descriptor, +16 failure record
//	R20  the current op; layout in op.go
//	R21  its mask of arguments to load from memory
//
// The system call number goes into R8, the result comes back in R0.
TEXT ·interpreter(SB), NOSPLIT|NOFRAME, $0-0
	MOVD  $0x800000, R19     // dataBase
	MOVD  0(R19), R20        // the first op
next:
	MOVWU 4(R20), R21
	MOVD  8(R20), R0
	TBZ   $0, R21, arg2
	MOVD  (R0), R0
arg2:
	MOVD  16(R20), R1
	TBZ   $1, R21, arg3
	MOVD  (R1), R1
arg3:
	MOVD  24(R20), R2
	TBZ   $2, R21, arg4
	MOVD  (R2), R2
arg4:
	MOVD  32(R20), R3
	TBZ   $3, R21, arg5
	MOVD  (R3), R3
arg5:
	MOVD  40(R20), R4
	TBZ   $4, R21, arg6
	MOVD  (R4), R4
arg6:
	MOVD  48(R20), R5
	TBZ   $5, R21, call
	MOVD  (R5), R5
call:
	MOVWU 0(R20), R8
	TBNZ  $16, R8, pseudo    // a pseudo call?
	SVC
result:
	MOVD  56(R20), R9        // store the result where the op says
	CBZ   R9, stored
	MOVD  R0, (R9)
stored:
	CMN   $4095, R0          // -4095..-1 as unsigned: an error
	BHS   failed
	CBNZ  R0, positive
	MOVWU 64(R20), R20       // next op on 0
	B     next
positive:
	MOVWU 68(R20), R20       // next op on a positive result
	B     next
failed:
	NEG   R0, R0             // errno; look for a pair that handles it
	MOVWU 72(R20), R9
	CMPW  R9, R0
	BEQ   handled1
	MOVWU 80(R20), R10
	CMPW  R10, R0
	BEQ   handled2
	MOVWU 88(R20), R10
	CMPW  R10, R0
	BEQ   handled3
	CMNW  $1, R9             // the first pair may match any errno
	BEQ   handled1
	MOVD  R20, 16(R19)       // nobody does: write {op address, errno} to the
	MOVD  R0, 24(R19)        // sync descriptor and exit with status 1
	MOVD  8(R19), R0
	ADD   $16, R19, R1
	MOVD  $16, R2
	MOVD  $64, R8            // write
	SVC
	MOVD  $1, R0
	MOVD  $94, R8            // exit_group
	SVC
handled1:
	MOVWU 76(R20), R20
	B     next
handled2:
	MOVWU 84(R20), R20
	B     next
handled3:
	MOVWU 92(R20), R20
	B     next
pseudo:
	TBZ   $0, R8, result     // value: the result is the first argument
	MOVD  (R0), R9           // countdown: the second argument less; -EAGAIN when
	SUB   R1, R9, R9         // nothing is left
	MOVD  R9, (R0)
	MOVD  R9, R0
	CMP   $0, R9
	BGT   result
	MOVD  $-11, R0
	B     result
	WORD  $0                 // udf: nothing falls through
	WORD  $0x50545249        // the end marker, "IRTPEND!"
	WORD  $0x21444e45

// func interpreterAddress() unsafe.Pointer
// The address must be taken here: from Go one gets the ABI wrapper.
TEXT ·interpreterAddress(SB), NOSPLIT, $0-8
	MOVD $·interpreter(SB), R0
	MOVD R0, ret+0(FP)
	RET
