package modbus

import (
	"errors"
	"fmt"
)

// Exception codes (Modbus application protocol V1.1b3, chapter 7).
const (
	IllegalFunction      = 1
	IllegalAddress       = 2
	IllegalValue         = 3
	DeviceFailure        = 4
	Acknowledge          = 5
	Busy                 = 6
	NegativeAcknowledge  = 7
	ParityError          = 8
	GatewayPath          = 10
	GatewayTargetSilence = 11
)

var exceptionWords = map[byte]string{
	IllegalFunction:      "illegal function",
	IllegalAddress:       "illegal data address",
	IllegalValue:         "illegal data value",
	DeviceFailure:        "device failure",
	Acknowledge:          "accepted, still working",
	Busy:                 "device busy",
	NegativeAcknowledge:  "negative acknowledge",
	ParityError:          "memory parity error",
	GatewayPath:          "gateway path unavailable",
	GatewayTargetSilence: "no answer behind the gateway",
}

var exceptionRemedies = map[byte]string{
	IllegalFunction:      "the device does not know this function; try another table",
	IllegalAddress:       "the device has no such register; compare address and count with its manual, which may count from 1",
	IllegalValue:         "the device refuses the count or the value; read fewer registers at once or write a value in range",
	GatewayPath:          "the gateway has no way to this unit; check its routing table",
	GatewayTargetSilence: "the unit behind the gateway is off, unwired or has another unit id or baud rate",
}

// An Exception is a device's answer that it will not do what was asked. The
// device is alive.
type Exception struct {
	Function byte // that was asked for
	Code     byte
}

// Cause returns the words of the specification, or the number for a vendor's
// own code.
func (e *Exception) Cause() string {
	if w, ok := exceptionWords[e.Code]; ok {
		return w
	}
	return fmt.Sprintf("exception %d", e.Code)
}

func (e *Exception) Error() string {
	s := fmt.Sprintf("exception %d to function %d: %s", e.Code, e.Function, e.Cause())
	if r, ok := exceptionRemedies[e.Code]; ok {
		s += " (" + r + ")"
	}
	return s
}

func isException(err error) bool {
	_, ok := errors.AsType[*Exception](err)
	return ok
}

// fromUnit reports whether err is an answer of the unit itself: not that of a
// gateway which could not reach it.
func fromUnit(err error) bool {
	e, ok := errors.AsType[*Exception](err)
	return ok && e.Code != GatewayPath && e.Code != GatewayTargetSilence
}

// refused reports whether err says that the device will never answer this
// request, though it may answer for a part of it.
func refused(err error) bool {
	e, ok := errors.AsType[*Exception](err)
	return ok && (e.Code == IllegalAddress || e.Code == IllegalValue)
}

// busy reports whether err says that the device would answer r, or carry it
// out, if it were asked again later. A write that it accepted is not repeated.
func (r *request) busy(err error) bool {
	e, ok := errors.AsType[*Exception](err)
	return ok && (e.Code == Busy || e.Code == Acknowledge && !r.write)
}
