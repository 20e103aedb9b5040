package com.example.catalogue;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;
import org.springframework.test.util.ReflectionTestUtils;

class LiveDataTest {

    private final LiveData liveData = new LiveData(new LiveDataProperties(2));

    @Test
    void whatItHoldsFollowsFromItsSizeAlone() {
        LiveData.Verification verification = liveData.verify();

        assertThat(verification.blocks()).isEqualTo(2 * 1024 * 1024 / LiveData.BLOCK_BYTES);
        assertThat(verification.corrupt()).isZero();
        assertThat(new LiveData(new LiveDataProperties(2)).verify()).isEqualTo(verification);
    }

    @Test
    void oneChangedByteIsFound() {
        LiveData.Verification before = liveData.verify();
        Iterable<?> blocks = (Iterable<?>) ReflectionTestUtils.getField(liveData, "blocks");
        Object first = blocks.iterator().next();
        byte[] content = (byte[]) ReflectionTestUtils.getField(first, "content");
        content[4000] ^= 1;

        LiveData.Verification after = liveData.verify();
        assertThat(after.corrupt()).isEqualTo(1);
        assertThat(after.checksum()).isNotEqualTo(before.checksum());
    }

    @Test
    void churnLeavesTheLiveDataAsItWas() {
        LiveData.Verification before = liveData.verify();

        assertThat(liveData.churn(4).corrupt()).isZero();
        assertThat(liveData.verify()).isEqualTo(before);
    }
}
