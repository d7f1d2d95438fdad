//! Selectors: what functions and events are called on chain. The first 250 bits of Keccak-256 of the name.

use crate::domain::chain::Felt;

/// Four times 16 hex digits, the first the highest.
const fn felt(parts: [u64; 4]) -> [u8; 32] {
    let mut bytes = [0; 32];
    let mut at = 0;
    while at < 32 {
        bytes[at] = (parts[at / 8] >> (56 - 8 * (at % 8))) as u8;
        at += 1;
    }
    bytes
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name([u8; 32]);

impl Name {
    pub(super) fn felt(self) -> Felt {
        Felt::from_bytes(self.0).unwrap_or_default()
    }
}

macro_rules! names {
    ($($constant:ident $name:literal [$($part:literal),*];)*) => {
        $(pub(super) const $constant: Name = Name(felt([$($part),*]));)*
        #[cfg(all(test, feature = "chain"))]
        const ALL: &[(&str, Name)] = &[$(($name, $constant)),*];
    };
}

names! {
    SUBMIT_AI_JOB "submit_ai_job" [0x02cb_d772_0958_7537, 0x3d28_ce0c_61f8_37f3, 0x113e_1606_e2b1_641e, 0x21f3_fe10_48f9_296c];
    ASSIGN_JOB_TO_WORKER "assign_job_to_worker" [0x00e4_d579_583a_2c26, 0x7d38_2323_fdc4_97e3, 0xacee_5911_168c_a23d, 0xb131_aed3_6e65_07bd];
    SUBMIT_JOB_RESULT "submit_job_result" [0x02dc_67b1_273e_bb9c, 0xe0cd_823e_5042_50f5, 0x28b7_c8de_3d7d_a9a4, 0x01e8_a248_8248_fb7f];
    DISTRIBUTE_REWARDS "distribute_rewards" [0x01b3_7c0a_568c_fe59, 0xcedf_ee8b_b1d7_f455, 0x1fb8_8992_f8fb_07d9, 0x66eb_134c_a53d_9b1c];
    SETTLE_JOB "settle_job" [0x02a7_8a7f_0ff8_7153, 0x25f5_4a67_90c8_b3e4, 0x55ed_69cc_0bf2_0e3c, 0x9604_6339_09ac_83e2];
    CANCEL_JOB "cancel_job" [0x0331_e51f_97a4_a442, 0x1dde_889c_fffd_3687, 0xb3e4_1c4c_d610_98a7, 0xa13b_68c7_48ef_c286];
    EXPIRE_JOB "expire_job" [0x00ef_806d_6454_cd07, 0x7ae4_6015_1158_aecb, 0x2bc7_db84_1349_526d, 0xdf9d_58c6_8767_b5a3];
    REGISTER_WORKER "register_worker" [0x0270_f2ba_4710_f211, 0xcb3c_427c_e5e3_15be, 0x4ef6_16e0_b8bb_2be6, 0xdae6_8f40_aaf5_6c5f];
    ASSERT_EPOCH "assert_epoch" [0x0297_28da_b43c_bece, 0x6f1f_b220_24b5_9bcb, 0xfda9_377d_0821_9caf, 0x760b_ba12_4bbe_7c4c];
    PAUSE "pause" [0x03f6_1871_8f1c_de37, 0xd9c5_27a9_237b_04e6, 0xac04_89a8_647d_0517, 0xbb15_8277_58ec_e720];
    UNPAUSE "unpause" [0x00c1_48ef_471f_6869, 0xf253_bc8f_5eaf_00f6, 0x51d0_c021_e8cb_7477, 0x0421_1d11_0d5e_9b00];
    DEPLOY_CONTRACT "deployContract" [0x0198_7cbd_1780_8b9a, 0x2369_3d4d_e7e2_46a4, 0x43cf_e37e_6e7f_baea, 0xbd7d_7e65_32b0_7c3d];
    APPROVE "approve" [0x0219_209e_0832_7517, 0x1774_dab1_df80_982e, 0x9df2_0965_16f0_6319, 0xc5c6_d71a_e0a8_480c];
    GET_EPOCH "get_epoch" [0x01a8_a82c_8c7f_0f4e, 0x45ef_b5be_742b_4257, 0x0947_fae2_942a_3246, 0x5858_b079_02b3_e419];
    GET_CHARGE_LIMIT "get_charge_limit" [0x03d7_82e7_849f_868b, 0x9e98_919d_502c_ca3b, 0x4913_0582_2b68_5c61, 0x9799_aa8f_3dce_49c5];
    GET_GENERATION "get_generation" [0x024d_d89f_d6b2_6c84, 0x3ec8_6f7a_4f30_212d, 0xcdfe_10ae_6544_a6e6, 0x3d48_655f_52ef_e857];
    GET_SETTINGS "get_settings" [0x022e_32a2_0eca_6c52, 0xd2c5_6104_3b64_5b5b, 0xa354_708d_76aa_7534, 0xa1eb_9167_da72_3c2d];
    GET_JOB_STATE "get_job_state" [0x000c_a320_a3b8_f1af, 0x8bf6_8eae_71ad_a9f1, 0x116f_d58a_26f4_d93f, 0xcfe6_cdd7_0959_dc08];
    GET_JOB_DETAILS_MANY "get_job_details_many" [0x0260_e379_2619_19c3, 0x24d2_3261_affe_42e3, 0xf418_4c07_ae4a_e156, 0xe093_a9d1_12e6_da15];
    GET_JOB_SPEC "get_job_spec" [0x008c_0bbf_7ba4_2dff, 0x3aa8_d692_4a0c_1ab4, 0x9ae6_b507_d47e_11bf, 0x7d81_3ee5_b63f_a466];
    GET_PAID "get_paid" [0x0355_48f1_1ab5_525e, 0xbcb0_2463_631e_ff14, 0x150d_7e23_aca9_54ea, 0x9c10_e437_e6af_8984];
    GET_WORKER_ADDRESS "get_worker_address" [0x02c6_67c3_d28b_f253, 0x2d0f_aedb_856b_5cae, 0x1650_f50e_bd39_ea0b, 0xfbaf_8693_baae_0496];
    IS_COORDINATOR "is_coordinator" [0x0037_36a9_88d5_394a, 0xeec8_a9f3_425b_e7f3, 0xf98f_8014_1c74_5869, 0x6e8d_0d91_78da_7277];
    TOTAL_ESCROW "total_escrow" [0x02d2_6973_afc1_0806, 0xbd3b_176c_ffbc_5d29, 0x2601_48cb_25b2_9644, 0xd2fc_0556_8289_1a16];
    BALANCE_OF "balance_of" [0x035a_73cd_311a_05d4, 0x6ded_a634_c5ee_045d, 0xb92f_811b_4e74_bca4, 0x437f_cb53_02b7_af33];
    ALLOWANCE "allowance" [0x01e8_88a1_026b_19c8, 0xc0b5_7c72_d63e_d173, 0x7106_aa10_0341_05b9, 0x80ba_117b_d0c2_9fe1];
    IS_VALID_SIGNATURE "is_valid_signature" [0x0284_2086_2938_116c, 0xb3bb_dbed_ee07_451c, 0xcc54_d4e9_412d_bef7, 0x1142_ad19_80a3_0941];
    JOB_SUBMITTED "JobSubmitted" [0x006d_5553_5e1d_8608, 0x2976_7849_1890_3388, 0xf9bc_d278_baa5_451b, 0x4437_8853_c34d_33c9];
    JOB_ASSIGNED "JobAssigned" [0x023e_a1fe_d453_a335, 0x4760_3d9e_1004_1dd1, 0xaf0e_955e_b05c_4a16, 0x99de_df1d_736d_25e9];
    JOB_COMPLETED "JobCompleted" [0x00a8_b95e_3ec1_505e, 0x0c71_fdd2_b86b_a776, 0x955c_24ec_f948_7b65, 0xac4e_d449_1836_43b7];
    PAYMENT_RELEASED "PaymentReleased" [0x01ea_32da_eef3_4e2f, 0x9a65_b076_b5a3_1212, 0x2828_0f12_8f5b_a888, 0x309a_c60e_c5f7_4495];
    JOB_CANCELLED "JobCancelled" [0x01f6_9eba_500f_d7b6, 0x5665_f8c7_cbcf_27a5, 0x1bc3_57a1_852b_196a, 0x4a5a_4ba1_a44a_6956];
    JOB_EXPIRED "JobExpired" [0x0184_ca7d_90ad_694f, 0xbf81_85c3_9acb_3570, 0x251c_df86_ae99_1a48, 0xa6a4_703d_bece_39c4];
    WORKER_REGISTERED "WorkerRegistered" [0x00ec_eb0a_4bcb_59d7, 0x509a_3790_e77f_d6ed, 0x0783_a50f_bf15_cb0c, 0x77f2_43b7_ae18_c4e1];
    EPOCH_RAISED "EpochRaised" [0x0045_f6d9_c8a2_9fcd, 0xa4cd_189d_2dfb_f54f, 0x4f09_b29e_f7b6_11e1, 0x1b7b_8fe7_9a8b_d11a];
}

#[cfg(all(test, feature = "chain"))]
mod tests {
    use super::*;

    #[test]
    fn every_selector_is_that_of_its_name() {
        for (name, selector) in ALL {
            let expected = starknet::core::utils::get_selector_from_name(name).unwrap();
            assert_eq!(selector.felt().to_bytes(), expected.to_bytes_be(), "{name}");
        }
    }
}
