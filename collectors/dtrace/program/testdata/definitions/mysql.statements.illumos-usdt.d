# by  where true
#pragma D option quiet
#pragma D option aggrate=10hz
#pragma D option aggsize=4m
#pragma D option bufsize=256k
#pragma D option cleanrate=101hz
#pragma D option dynvarsize=32m
#pragma D option strsize=128
#pragma D option switchrate=10hz
BEGIN {
  iapi_end = timestamp + 60000000000;
  iapi_second = walltimestamp / 1000000000;
  printf("S\n");
}
mysql*:::select-done {
  @total[""] = count();
}
mysql*:::insert-done,
mysql*:::insert-select-done,
mysql*:::delete-done,
mysql*:::multi-delete-done {
  @total[""] = count();
}
mysql*:::update-done,
mysql*:::multi-update-done {
  @total[""] = count();
}
syscall::lseek:entry /(pid == 4711) && ((int)arg0 == -1) && ((int)arg2 == 1001)/ {
  iapi_end = timestamp + (int64_t)arg1;
}
profile:::tick-100hz /timestamp > iapi_end/ { exit(0); }
profile:::tick-100hz /(walltimestamp / 1000000000) != iapi_second/ {
  iapi_second = walltimestamp / 1000000000;
  printf("B\t%d\n", iapi_second);
  printa("N\t%S\t%@d\n", @total);
  printf("E\n");
  trunc(@total);
}

# by execname, pid, status, rowsmatched where execname != "x" && pid != "17" && psargs != "x" && statement != "select" && status != "17" && rowsmatched >= 5 && rowschanged >= 5 && latency >= 5 && cputime >= 5
#pragma D option quiet
#pragma D option aggrate=10hz
#pragma D option aggsize=4m
#pragma D option bufsize=256k
#pragma D option cleanrate=101hz
#pragma D option dynvarsize=32m
#pragma D option strsize=128
#pragma D option switchrate=10hz
BEGIN {
  iapi_end = timestamp + 60000000000;
  iapi_second = walltimestamp / 1000000000;
  printf("S\n");
}
mysql*:::select-start,
mysql*:::insert-start,
mysql*:::insert-select-start,
mysql*:::update-start,
mysql*:::multi-update-start,
mysql*:::delete-start,
mysql*:::multi-delete-start /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && ((execname) != "x") && ((uint64_t)(pid) != 17) && ((curpsinfo->pr_psargs) != "x")/ {
  self->s_t0 = timestamp;
  self->s_v0 = vtimestamp;
}
mysql*:::select-done /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && (self->s_t0 != 0) && (self->s_v0 != 0)/ {
  this->f_rowsmatched = (uint64_t)(arg1);
  this->f_rowschanged = (uint64_t)(0);
  this->f_latency = (uint64_t)(timestamp - self->s_t0);
  this->f_cputime = (uint64_t)(vtimestamp - self->s_v0);
  this->step = (uint64_t)((((this->f_rowsmatched < 1) || (this->f_rowsmatched >= 100000000)) ? 0 : ((this->f_rowsmatched < 10000) ? ((this->f_rowsmatched < 100) ? 1 : ((this->f_rowsmatched < 1000) ? 10 : 100)) : ((this->f_rowsmatched < 1000000) ? ((this->f_rowsmatched < 100000) ? 1000 : 10000) : ((this->f_rowsmatched < 10000000) ? 100000 : 1000000)))));
  this->low = (uint64_t)(((this->step > 0) ? ((this->f_rowsmatched / this->step) * this->step) : ((this->f_rowsmatched < 1) ? 0 : 100000000)));
}
mysql*:::select-done /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && (self->s_t0 != 0) && (self->s_v0 != 0) && ((execname) != "x") && ((uint64_t)(pid) != 17) && ((curpsinfo->pr_psargs) != "x") && (((probename) == "delete-done") || ((probename) == "insert-done") || ((probename) == "insert-select-done") || ((probename) == "multi-delete-done") || ((probename) == "multi-update-done") || ((probename) == "update-done")) && ((uint64_t)(arg0) != 17) && (this->f_rowsmatched >= 5) && (this->f_rowschanged >= 5) && (this->f_latency >= 5) && (this->f_cputime >= 5)/ {
  @rows[zonename, this->low, (uint64_t)(pid), (uint64_t)(arg0), (execname)] = count();
  @total[zonename] = count();
}
mysql*:::select-done /(self->s_t0 != 0) && (self->s_v0 != 0)/ {
  self->s_t0 = 0;
  self->s_v0 = 0;
}
mysql*:::insert-done,
mysql*:::insert-select-done,
mysql*:::delete-done,
mysql*:::multi-delete-done /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && (self->s_t0 != 0) && (self->s_v0 != 0)/ {
  this->f_rowsmatched = (uint64_t)(arg1);
  this->f_rowschanged = (uint64_t)(arg1);
  this->f_latency = (uint64_t)(timestamp - self->s_t0);
  this->f_cputime = (uint64_t)(vtimestamp - self->s_v0);
  this->step = (uint64_t)((((this->f_rowsmatched < 1) || (this->f_rowsmatched >= 100000000)) ? 0 : ((this->f_rowsmatched < 10000) ? ((this->f_rowsmatched < 100) ? 1 : ((this->f_rowsmatched < 1000) ? 10 : 100)) : ((this->f_rowsmatched < 1000000) ? ((this->f_rowsmatched < 100000) ? 1000 : 10000) : ((this->f_rowsmatched < 10000000) ? 100000 : 1000000)))));
  this->low = (uint64_t)(((this->step > 0) ? ((this->f_rowsmatched / this->step) * this->step) : ((this->f_rowsmatched < 1) ? 0 : 100000000)));
}
mysql*:::insert-done,
mysql*:::insert-select-done,
mysql*:::delete-done,
mysql*:::multi-delete-done /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && (self->s_t0 != 0) && (self->s_v0 != 0) && ((execname) != "x") && ((uint64_t)(pid) != 17) && ((curpsinfo->pr_psargs) != "x") && (((probename) == "delete-done") || ((probename) == "insert-done") || ((probename) == "insert-select-done") || ((probename) == "multi-delete-done") || ((probename) == "multi-update-done") || ((probename) == "update-done")) && ((uint64_t)(arg0) != 17) && (this->f_rowsmatched >= 5) && (this->f_rowschanged >= 5) && (this->f_latency >= 5) && (this->f_cputime >= 5)/ {
  @rows[zonename, this->low, (uint64_t)(pid), (uint64_t)(arg0), (execname)] = count();
  @total[zonename] = count();
}
mysql*:::insert-done,
mysql*:::insert-select-done,
mysql*:::delete-done,
mysql*:::multi-delete-done /(self->s_t0 != 0) && (self->s_v0 != 0)/ {
  self->s_t0 = 0;
  self->s_v0 = 0;
}
mysql*:::update-done,
mysql*:::multi-update-done /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && (self->s_t0 != 0) && (self->s_v0 != 0)/ {
  this->f_rowsmatched = (uint64_t)(arg1);
  this->f_rowschanged = (uint64_t)(arg2);
  this->f_latency = (uint64_t)(timestamp - self->s_t0);
  this->f_cputime = (uint64_t)(vtimestamp - self->s_v0);
  this->step = (uint64_t)((((this->f_rowsmatched < 1) || (this->f_rowsmatched >= 100000000)) ? 0 : ((this->f_rowsmatched < 10000) ? ((this->f_rowsmatched < 100) ? 1 : ((this->f_rowsmatched < 1000) ? 10 : 100)) : ((this->f_rowsmatched < 1000000) ? ((this->f_rowsmatched < 100000) ? 1000 : 10000) : ((this->f_rowsmatched < 10000000) ? 100000 : 1000000)))));
  this->low = (uint64_t)(((this->step > 0) ? ((this->f_rowsmatched / this->step) * this->step) : ((this->f_rowsmatched < 1) ? 0 : 100000000)));
}
mysql*:::update-done,
mysql*:::multi-update-done /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && (self->s_t0 != 0) && (self->s_v0 != 0) && ((execname) != "x") && ((uint64_t)(pid) != 17) && ((curpsinfo->pr_psargs) != "x") && (((probename) == "delete-done") || ((probename) == "insert-done") || ((probename) == "insert-select-done") || ((probename) == "multi-delete-done") || ((probename) == "multi-update-done") || ((probename) == "update-done")) && ((uint64_t)(arg0) != 17) && (this->f_rowsmatched >= 5) && (this->f_rowschanged >= 5) && (this->f_latency >= 5) && (this->f_cputime >= 5)/ {
  @rows[zonename, this->low, (uint64_t)(pid), (uint64_t)(arg0), (execname)] = count();
  @total[zonename] = count();
}
mysql*:::update-done,
mysql*:::multi-update-done /(self->s_t0 != 0) && (self->s_v0 != 0)/ {
  self->s_t0 = 0;
  self->s_v0 = 0;
}
syscall::lseek:entry /(pid == 4711) && ((int)arg0 == -1) && ((int)arg2 == 1001)/ {
  iapi_end = timestamp + (int64_t)arg1;
}
profile:::tick-100hz /timestamp > iapi_end/ { exit(0); }
profile:::tick-100hz /(walltimestamp / 1000000000) != iapi_second/ {
  iapi_second = walltimestamp / 1000000000;
  printf("B\t%d\n", iapi_second);
  printa("N\t%S\t%@d\n", @total);
  printa("R\t%S\t%u\t%u\t%u\t%S\t%@d\n", @rows);
  printf("E\n");
  trunc(@total);
  trunc(@rows);
}

