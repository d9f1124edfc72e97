#include "textflag.h"

// The interpreter. Its bytes are copied into every image (image.go); Go code
// never calls it. It is position independent and uses neither a stack nor
// anything of the Go runtime, because it runs as the only code of a new process.
//
//	R15  the data header: +0 first op, +8 sync descriptor, +16 failure record
//	R12  the current op; layout in op.go
//	R13  its mask of arguments to load from memory
//
// The kernel clobbers RAX, RCX and R11 only.
TEXT ·interpreter(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ  $0x800000, R15     // dataBase
	MOVQ  0(R15), R12        // the first op
next:
	// Arguments: the word in the op, or what it points to.
	MOVL  4(R12), R13
	MOVQ  8(R12), DI
	TESTL $1, R13
	JEQ   arg2
	MOVQ  (DI), DI
arg2:
	MOVQ  16(R12), SI
	TESTL $2, R13
	JEQ   arg3
	MOVQ  (SI), SI
arg3:
	MOVQ  24(R12), DX
	TESTL $4, R13
	JEQ   arg4
	MOVQ  (DX), DX
arg4:
	MOVQ  32(R12), R10
	TESTL $8, R13
	JEQ   arg5
	MOVQ  (R10), R10
arg5:
	MOVQ  40(R12), R8
	TESTL $16, R13
	JEQ   arg6
	MOVQ  (R8), R8
arg6:
	MOVQ  48(R12), R9
	TESTL $32, R13
	JEQ   call
	MOVQ  (R9), R9
call:
	MOVL  0(R12), AX
	TESTL $0x10000, AX       // a pseudo call?
	JNE   pseudo
	SYSCALL
result:
	MOVQ  56(R12), R14       // store the result where the op says
	TESTQ R14, R14
	JEQ   stored
	MOVQ  AX, (R14)
stored:
	CMPQ  AX, $-4095         // -4095..-1 as unsigned: an error
	JCC   failed
	TESTQ AX, AX
	JNE   positive
	MOVL  64(R12), R12       // next op on 0
	JMP   next
positive:
	MOVL  68(R12), R12       // next op on a positive result
	JMP   next
failed:
	NEGQ  AX                 // errno; look for a pair that handles it
	CMPL  72(R12), AX
	JEQ   handled1
	CMPL  80(R12), AX
	JEQ   handled2
	CMPL  88(R12), AX
	JEQ   handled3
	CMPL  72(R12), $-1       // the first pair may match any errno
	JEQ   handled1
	MOVQ  R12, 16(R15)       // nobody does: write {op address, errno} to the
	MOVQ  AX, 24(R15)        // sync descriptor and exit with status 1
	MOVQ  8(R15), DI
	LEAQ  16(R15), SI
	MOVL  $16, DX
	MOVL  $1, AX             // write
	SYSCALL
	MOVL  $1, DI
	MOVL  $231, AX           // exit_group
	SYSCALL
handled1:
	MOVL  76(R12), R12
	JMP   next
handled2:
	MOVL  84(R12), R12
	JMP   next
handled3:
	MOVL  92(R12), R12
	JMP   next
pseudo:
	TESTL $1, AX
	JNE   countdown
	MOVQ  DI, AX             // value: the result is the first argument
	JMP   result
countdown:
	MOVQ  (DI), AX           // the second argument less; -EAGAIN when nothing is left
	SUBQ  SI, AX
	MOVQ  AX, (DI)
	JGT   result
	MOVQ  $-11, AX
	JMP   result
	BYTE  $0x0f; BYTE $0x0b  // ud2: nothing falls through
	QUAD  $0x21444e4550545249 // the end marker, "IRTPEND!"

// func interpreterAddress() unsafe.Pointer
// The address must be taken here: from Go one gets the ABI wrapper.
TEXT ·interpreterAddress(SB), NOSPLIT, $0-8
	LEAQ ·interpreter(SB), AX
	MOVQ AX, ret+0(FP)
	RET
